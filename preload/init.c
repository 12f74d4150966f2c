/* What happens when the library is loaded: nothing that a program could notice. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/param/params.h"
#include "frontend/report/report.h"
#include "preload/environment.h"
#include "preload/real.h"
#include "preload/trap.h"
#include "sanitize/report.h"
#include "vcpu/decode/decoder.h"

/* Written by the constructor only. */
static char preload_variable[PATH_MAX + 16];
static char directory_variable[PATH_MAX + 16];

bool environment_is_set(void)
{
	return directory_variable[0] && preload_variable[0];
}

char *environment_preload(void)
{
	return preload_variable;
}

const char *environment_library(void)
{
	return preload_variable + strlen("LD_PRELOAD=");
}

char *environment_run_directory(void)
{
	return directory_variable;
}

/*
 * gcc's AddressSanitizer is a shared library and insists on being the first. Behind us it does as
 * well: what we do not answer goes on to it. It asks for this by name.
 */
const char *__asan_default_options(void);
INTERPOSED const char *__asan_default_options(void)
{
	return "verify_asan_link_order=0";
}

__attribute__((constructor)) static void library_loaded(void)
{
	const char *directory = getenv(PARAMS_RUN_DIR);
	Dl_info self;

	client_call_begin();
	params_attach(directory);
	report_attach(directory);
	sanitize_attach(directory);
	if (!dladdr(preload_variable, &self) || !self.dli_fname)
		self.dli_fname = "";
	decoder_look_beside(self.dli_fname);
	if (*self.dli_fname && directory && strlen(self.dli_fname) < PATH_MAX &&
	    strlen(directory) < PATH_MAX) {
		snprintf(preload_variable, sizeof(preload_variable), "LD_PRELOAD=%s",
			 self.dli_fname);
		snprintf(directory_variable, sizeof(directory_variable), "%s=%s", PARAMS_RUN_DIR,
			 directory);
	}
	client_call_end();
	trap_start();
}
