// A KVM client in Go with its standard library alone: system calls of its own, a vCPU in each of four
// threads, memory that goes away under a slot, and a child process that opens /dev/kvm, too.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

const (
	getAPIVersion       = 0xAE00
	createVM            = 0xAE01
	getVCPUMmapSize     = 0xAE04
	createVCPU          = 0xAE41
	setUserMemoryRegion = 0x4020AE46
	runVCPU             = 0xAE80
	setRegs             = 0x4090AE82
	getSregs            = 0x8138AE83
	setSregs            = 0x4138AE84
	exitIO              = 2
	exitHLT             = 5

	page     = 4096
	memory   = 16 * page
	vcpus    = 4
	port     = 0x3F8
	lostPage = 0x80000
)

// mov [di], ax; add di, 2; dec cx; jnz -7; mov dx, port; out dx, al; hlt
var code = []byte{0x89, 0x05, 0x83, 0xC7, 0x02, 0x49, 0x75, 0xF8, 0xBA, 0xF8, 0x03, 0xEE, 0xF4}

type region struct {
	slot, flags                  uint32
	guestAddress, bytes, address uint64
}

type registers struct {
	axBxCxDx [4]uint64
	siDiSpBp [4]uint64
	r8ToR15  [8]uint64
	ip       uint64
	flags    uint64
}

func check(ok bool, what string, rest ...any) {
	if !ok {
		fmt.Fprintln(os.Stderr, append([]any{what}, rest...)...)
		os.Exit(1)
	}
}

func ioctl(fd, request, argument uintptr) (uintptr, syscall.Errno) {
	for {
		result, _, err := syscall.Syscall(syscall.SYS_IOCTL, fd, request, argument)
		// The scheduler's own signals end KVM_RUN.
		if err != syscall.EINTR {
			return result, err
		}
	}
}

func call(fd, request, argument uintptr) uintptr {
	result, err := ioctl(fd, request, argument)
	check(err == 0, "ioctl", fmt.Sprintf("%x", request), err)
	return result
}

func anonymous(bytes int) []byte {
	made, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	check(err == nil, "mmap", err)
	return made
}

func addSlot(vm uintptr, slot uint32, at uint64, memory []byte) {
	wanted := region{slot: slot, guestAddress: at, bytes: uint64(len(memory)),
		address: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	call(vm, setUserMemoryRegion, uintptr(unsafe.Pointer(&wanted)))
}

// Real mode at address 0, with a data segment, and what to write where.
func setUp(vcpu uintptr, id, count int, segment uint32) {
	var special [312]byte
	call(vcpu, getSregs, uintptr(unsafe.Pointer(&special[0])))
	for _, at := range []int{0, 24} { // CS and DS
		*(*uint64)(unsafe.Pointer(&special[at])) = 0
		*(*uint16)(unsafe.Pointer(&special[at+12])) = 0
	}
	*(*uint64)(unsafe.Pointer(&special[24])) = uint64(segment)
	*(*uint16)(unsafe.Pointer(&special[24+12])) = uint16(segment >> 4)
	call(vcpu, setSregs, uintptr(unsafe.Pointer(&special[0])))
	wanted := registers{flags: 2}
	wanted.axBxCxDx = [4]uint64{0x1100 + uint64(id), 0, uint64(count), 0}
	wanted.siDiSpBp[1] = uint64((id + 1) * page)
	call(vcpu, setRegs, uintptr(unsafe.Pointer(&wanted)))
}

func mapRun(kvm, vcpu uintptr) []byte {
	run, err := syscall.Mmap(int(vcpu), 0, int(call(kvm, getVCPUMmapSize, 0)),
		syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err == nil, "mmap of a vCPU", err)
	return run
}

func word(run []byte, at int) uint32 {
	return *(*uint32)(unsafe.Pointer(&run[at]))
}

func runOne(kvm, vcpu uintptr, id int) {
	runtime.LockOSThread()
	run := mapRun(kvm, vcpu)
	setUp(vcpu, id, page/2, 0)
	call(vcpu, runVCPU, 0)
	check(word(run, 8) == exitIO && word(run, 32)>>16 == port, "exit", word(run, 8))
	check(run[word(run, 40)] == byte(id), "data of the port")
	call(vcpu, runVCPU, 0)
	check(word(run, 8) == exitHLT, "exit", word(run, 8))
	check(syscall.Munmap(run) == nil, "munmap of a vCPU")
}

// The guest writes to memory that its slot no longer has.
func loseMemory(kvm, vm, vcpu uintptr) {
	lost := anonymous(page)
	addSlot(vm, 1, lostPage, lost)
	setUp(vcpu, 0, 1, lostPage-page)
	call(vcpu, runVCPU, 0)
	check(lost[0] == 0 && lost[1] == 0x11, "what the guest wrote")
	check(syscall.Munmap(lost) == nil, "munmap under a slot")
	setUp(vcpu, 0, 1, lostPage-page)
	_, err := ioctl(vcpu, runVCPU, 0)
	check(err == syscall.EFAULT, "KVM_RUN without the memory", err)
}

func openKVM() uintptr {
	about, err := os.Stat("/dev/kvm")
	check(err == nil && about.Mode()&os.ModeCharDevice != 0, "/dev/kvm", err)
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	check(err == nil, "open", err)
	kvm := file.Fd()
	runtime.SetFinalizer(file, nil)
	check(call(kvm, getAPIVersion, 0) == 12, "version")
	return kvm
}

func main() {
	kvm := openKVM()
	if len(os.Args) > 1 {
		fmt.Println("version 12 in the child")
		return
	}
	vm := call(kvm, createVM, 0)
	shared := anonymous(memory)
	copy(shared, code)
	addSlot(vm, 0, 0, shared)
	var all sync.WaitGroup
	var first uintptr
	for id := 0; id < vcpus; id++ {
		vcpu := call(vm, createVCPU, uintptr(id))
		if id == 0 {
			first = vcpu
		}
		all.Add(1)
		go func(id int) {
			runOne(kvm, vcpu, id)
			all.Done()
		}(id)
	}
	all.Wait()
	for id := 0; id < vcpus; id++ {
		for at := (id + 1) * page; at < (id+2)*page; at += 2 {
			check(shared[at] == byte(id) && shared[at+1] == 0x11, "memory at", at)
		}
	}
	loseMemory(kvm, vm, first)
	self, err := os.Executable()
	check(err == nil, "executable", err)
	said, err := exec.Command(self, "child").CombinedOutput()
	check(err == nil && string(said) == "version 12 in the child\n", "child", err, string(said))
	fmt.Printf("%d vCPUs in Go threads wrote %d pages, a child has /dev/kvm%s\n", vcpus, vcpus, more())
}
