# SPDX-License-Identifier: MIT
# bash completion for hull: verbs, options (asked of hull itself), files.
_hull()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}

    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'run snapshot restore clone top image disk info help --help --version' -- "$cur")
        return
    fi
    case $prev in
    --engine) mapfile -t COMPREPLY < <(compgen -W 'auto kvm soft soft,jit=off soft,perf=on' -- "$cur"); return ;;
    --cpu) mapfile -t COMPREPLY < <(compgen -W "$(hull info --json 2>/dev/null | sed -n '/"cpu_models"/,/]/s/^    "\(.*\)",*$/\1/p')" -- "$cur"); return ;;
    --net) mapfile -t COMPREPLY < <(compgen -W 'user none tap,name= tap,vhost=on,name=' -- "$cur"); return ;;
    --vsock) mapfile -t COMPREPLY < <(compgen -W '3,socket=' -- "$cur"); return ;;
    --serial | --console) mapfile -t COMPREPLY < <(compgen -W 'stdio none file: unix:' -- "$cur"); return ;;
    --share | --flatten) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    --base) # a folder for snapshot, an image for disk commit
        if [ "$verb" = disk ]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        fi
        return ;;
    --progress)
        if [ "$verb" = disk ]; then
            mapfile -t COMPREPLY < <(compgen -W 'json none' -- "$cur")
            return
        fi ;;
    --format | --backing-format | --source-format) mapfile -t COMPREPLY < <(compgen -W 'raw qcow2' -- "$cur"); return ;;
    --merge | --create | --apply | --delete | --granularity) COMPREPLY=(); return ;; # names and numbers of the image's own
    --backing | --source-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --kernel | --initrd | --disk | --qmp | --ssh-key | --output | -o) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    esac
    case $verb:$cur in
    run:-*)
        mapfile -t COMPREPLY < <(compgen -W "$(hull run --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p')" \
            -- "$cur") ;;
    snapshot:-*)
        mapfile -t COMPREPLY < <(compgen -W '--qmp --base --copy-disks --stop --verify --flatten --progress --help' -- "$cur") ;;
    restore:-*)
        mapfile -t COMPREPLY < <(compgen -W '--temporary --paused --verify --qmp --serial --console --net --name --engine --timeout
            --user --exit-on-panic --no-sandbox --help' -- "$cur") ;;
    clone:-*)
        mapfile -t COMPREPLY < <(compgen -W '--count --json --verify --qmp --serial --console --net --name --engine --timeout --user
            --exit-on-panic --no-sandbox --help' -- "$cur") ;;
    snapshot:* | restore:* | clone:*) mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    top:*) mapfile -t COMPREPLY < <(compgen -W '--qmp --interval --once --json --help' -- "$cur") ;;
    disk:-*)
        mapfile -t COMPREPLY < <(compgen -W "$(hull disk "${COMP_WORDS[2]}" --help 2>/dev/null | sed -n 's/^  \(-., \|\)\(--[a-z-]*\).*/\2/p')" \
            -- "$cur") ;;
    disk:*)
        if [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -W "$(hull disk --help 2>/dev/null | sed -n 's/^  \([a-z]*\)  .*/\1/p')" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        fi ;;
    info:*) mapfile -t COMPREPLY < <(compgen -W '--cpu --json --help' -- "$cur") ;;
    image:-*)
        mapfile -t COMPREPLY < <(compgen -W "$(hull image build --help 2>/dev/null | sed -n 's/^  \(-o,\|   \) \(--[a-z-]*\) .*/\2/p')" \
            -- "$cur") ;;
    image:*)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W 'build' -- "$cur") ;;
        3) mapfile -t COMPREPLY < <(compgen -W 'debian' -- "$cur") ;;
        esac ;;
    *) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    esac
}
complete -o filenames -F _hull hull
