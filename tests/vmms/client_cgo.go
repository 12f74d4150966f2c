package main

// #include <fcntl.h>
// #include <sys/ioctl.h>
// #include <unistd.h>
//
// static int version(void)
// {
// 	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
// 	int got = ioctl(kvm, 0xAE00, 0);
//
// 	close(kvm);
// 	return got;
// }
import "C"

// C code beside Go's finds the same device.
func more() string {
	check(C.version() == 12, "version in C")
	return ", and so has C"
}
