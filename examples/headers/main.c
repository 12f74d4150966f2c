/* Runs the examples of the public headers, one after the other. */
#include <stdio.h>
#include <stdlib.h>

#include "example.h"

void example_check(int truth, const char *condition)
{
	if (truth)
		return;
	fprintf(stderr, "example: not so: %s\n", condition);
	exit(1);
}

int main(void)
{
	quire_platform_install(&example_platform);
	example_types();
	example_vm();
	example_vcpu();
	example_format();
	example_stats();
	example_trace();
	example_dirty();
	example_gmem();
	example_confidential();
	example_place();
	example_view();
	printf("every header's example did what it says\n");
	return 0;
}
