/* A program that nothing can be preloaded into: without an engine `quire run` refuses it. */
#include <stdio.h>

int main(void)
{
	puts("ran");
	return 0;
}
