int cmd_image(int c, char **v);
__attribute__((weak)) int cmd_image(int c, char **v)
{
    return 1;
}
