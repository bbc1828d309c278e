/* SPDX-License-Identifier: MIT */
/* Integer, string and branch instructions: list of handlers for ops.c. */
#ifndef HULL_SOFT_OPS_INT_H
#define HULL_SOFT_OPS_INT_H

/* clang-format off */
#define SOFT_INT_OPS(X) \
    X(ADD, soft_op_add) X(OR, soft_op_or) X(ADC, soft_op_adc) X(SBB, soft_op_sbb) X(AND, soft_op_and) \
    X(SUB, soft_op_sub) X(XOR, soft_op_xor) X(CMP, soft_op_cmp) X(TEST, soft_op_test) X(INC, soft_op_inc) \
    X(DEC, soft_op_dec) X(NOT, soft_op_not) X(NEG, soft_op_neg) X(MUL, soft_op_mul) X(IMUL_1, soft_op_imul_1) \
    X(IMUL, soft_op_imul) X(DIV, soft_op_div) X(IDIV, soft_op_idiv) X(DAA, soft_op_daa) X(DAS, soft_op_das) \
    X(AAA, soft_op_aaa) X(AAS, soft_op_aas) X(AAM, soft_op_aam) X(AAD, soft_op_aad) X(ROL, soft_op_rol) \
    X(ROR, soft_op_ror) X(RCL, soft_op_rcl) X(RCR, soft_op_rcr) X(SHL, soft_op_shl) X(SHR, soft_op_shr) \
    X(SAR, soft_op_sar) X(SHLD, soft_op_shld) X(SHRD, soft_op_shrd) X(BT, soft_op_bt) X(BTS, soft_op_bts) \
    X(BTR, soft_op_btr) X(BTC, soft_op_btc) X(TZCNT, soft_op_tzcnt) X(LZCNT, soft_op_lzcnt) X(BSF, soft_op_bsf) \
    X(BSR, soft_op_bsr) X(POPCNT, soft_op_popcnt) X(ADCX, soft_op_adcx) X(ADOX, soft_op_adox) \
    X(CRC32, soft_op_crc32) X(MOVBE, soft_op_movbe) X(BSWAP, soft_op_bswap) X(ANDN, soft_op_andn) \
    X(BLSR, soft_op_blsr) X(BLSMSK, soft_op_blsmsk) X(BLSI, soft_op_blsi) X(BEXTR, soft_op_bextr) \
    X(BZHI, soft_op_bzhi) X(PEXT, soft_op_pext) X(PDEP, soft_op_pdep) X(MULX, soft_op_mulx) X(SHLX, soft_op_shlx) \
    X(SARX, soft_op_sarx) X(SHRX, soft_op_shrx) X(RORX, soft_op_rorx) X(MOV, soft_op_mov) X(MOV_MOFFS, soft_op_mov) \
    X(MOVNTI, soft_op_mov) X(MOVZX, soft_op_movzx) X(MOVSX, soft_op_movsx) X(MOVSXD, soft_op_movsx) \
    X(LEA, soft_op_lea) X(PAUSE, soft_op_pause) X(NOP, soft_op_nop) X(XCHG, soft_op_xchg) X(XADD, soft_op_xadd) \
    X(CMPXCHG, soft_op_cmpxchg) X(CMPXCHG8B, soft_op_cmpxchg8b) X(CMPXCHG16B, soft_op_cmpxchg16b) \
    X(CBW, soft_op_cbw) X(CWDE, soft_op_cwde) X(CDQE, soft_op_cdqe) X(CWD, soft_op_cwd) X(CDQ, soft_op_cdq) \
    X(CQO, soft_op_cqo) X(XLAT, soft_op_xlat) X(SAHF, soft_op_sahf) X(LAHF, soft_op_lahf) X(CMC, soft_op_cmc) \
    X(CLC, soft_op_clc) X(STC, soft_op_stc) X(CLD, soft_op_cld) X(STD, soft_op_std) X(SALC, soft_op_salc) \
    X(CMOVO, soft_op_cmovo) X(CMOVNO, soft_op_cmovno) X(CMOVB, soft_op_cmovb) X(CMOVAE, soft_op_cmovae) \
    X(CMOVE, soft_op_cmove) X(CMOVNE, soft_op_cmovne) X(CMOVBE, soft_op_cmovbe) X(CMOVA, soft_op_cmova) \
    X(CMOVS, soft_op_cmovs) X(CMOVNS, soft_op_cmovns) X(CMOVP, soft_op_cmovp) X(CMOVNP, soft_op_cmovnp) \
    X(CMOVL, soft_op_cmovl) X(CMOVGE, soft_op_cmovge) X(CMOVLE, soft_op_cmovle) X(CMOVG, soft_op_cmovg) \
    X(SETO, soft_op_seto) X(SETNO, soft_op_setno) X(SETB, soft_op_setb) X(SETAE, soft_op_setae) \
    X(SETE, soft_op_sete) X(SETNE, soft_op_setne) X(SETBE, soft_op_setbe) X(SETA, soft_op_seta) \
    X(SETS, soft_op_sets) X(SETNS, soft_op_setns) X(SETP, soft_op_setp) X(SETNP, soft_op_setnp) \
    X(SETL, soft_op_setl) X(SETGE, soft_op_setge) X(SETLE, soft_op_setle) X(SETG, soft_op_setg) X(JO, soft_op_jo) \
    X(JNO, soft_op_jno) X(JB, soft_op_jb) X(JAE, soft_op_jae) X(JE, soft_op_je) X(JNE, soft_op_jne) \
    X(JBE, soft_op_jbe) X(JA, soft_op_ja) X(JS, soft_op_js) X(JNS, soft_op_jns) X(JP, soft_op_jp) \
    X(JNP, soft_op_jnp) X(JL, soft_op_jl) X(JGE, soft_op_jge) X(JLE, soft_op_jle) X(JG, soft_op_jg) \
    X(LOOPNE, soft_op_loopne) X(LOOPE, soft_op_loope) X(LOOP, soft_op_loop) X(JCXZ, soft_op_jcxz) \
    X(JMP, soft_op_jmp) X(CALL, soft_op_call) X(RET, soft_op_ret) X(PUSH, soft_op_push) X(POP, soft_op_pop) \
    X(PUSHA, soft_op_pusha) X(POPA, soft_op_popa) X(ENTER, soft_op_enter) X(LEAVE, soft_op_leave) \
    X(MOVS, soft_op_movs) X(CMPS, soft_op_cmps) X(STOS, soft_op_stos) X(LODS, soft_op_lods) X(SCAS, soft_op_scas) \
    X(INS, soft_op_ins) X(OUTS, soft_op_outs) X(BOUND, soft_op_bound) X(IN, soft_op_in) X(OUT, soft_op_out) \
    X(LFENCE, soft_op_fence) X(MFENCE, soft_op_fence) X(SFENCE, soft_op_fence) X(CLFLUSH, soft_op_clflush) \
    X(CLFLUSHOPT, soft_op_clflush) X(CLWB, soft_op_clflush) X(PREFETCHW, soft_op_nop) X(PREFETCHNTA, soft_op_nop) \
    X(PREFETCHT0, soft_op_nop) X(PREFETCHT1, soft_op_nop) X(PREFETCHT2, soft_op_nop) X(ENDBR64, soft_op_nop) \
    X(ENDBR32, soft_op_nop) \
    X(RDRAND, soft_op_rdrand) X(RDSEED, soft_op_rdrand)
/* clang-format on */

#endif
