/* A program that nothing can be preloaded into: `quire run` must refuse it. */
#include <stdio.h>

int main(void)
{
	puts("ran");
	return 0;
}
