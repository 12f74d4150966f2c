//! A KVM client in Rust, with its standard library alone: files, threads and /dev/kvm through libc's
//! ioctl() and mmap(). Each vCPU, in a thread of its own, writes a page of its own and says so at a port.
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::io::{AsRawFd, FromRawFd, RawFd};
use std::sync::{Arc, Barrier};
use std::thread;

extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn mmap(at: *mut c_void, length: usize, rights: i32, flags: i32, fd: i32, offset: i64)
        -> *mut c_void;
    fn munmap(at: *mut c_void, length: usize) -> i32;
}

const GET_API_VERSION: u64 = 0xAE00;
const CREATE_VM: u64 = 0xAE01;
const GET_VCPU_MMAP_SIZE: u64 = 0xAE04;
const CREATE_VCPU: u64 = 0xAE41;
const GET_DIRTY_LOG: u64 = 0x4010_AE42;
const SET_USER_MEMORY_REGION: u64 = 0x4020_AE46;
const RUN: u64 = 0xAE80;
const SET_REGS: u64 = 0x4090_AE82;
const GET_SREGS: u64 = 0x8138_AE83;
const SET_SREGS: u64 = 0x4138_AE84;
const EXIT_IO: u32 = 2;
const EXIT_HLT: u32 = 5;
const READ_WRITE: i32 = 3;
const SHARED: i32 = 1;
const PRIVATE_ANONYMOUS: i32 = 0x22;
const LOG_DIRTY_PAGES: u32 = 1;

const PAGE: usize = 4096;
const MEMORY: usize = 64 * PAGE;
const VCPUS: usize = 4;
const PORT: u16 = 0x3F8;
/// mov [di], ax; add di, 2; dec cx; jnz -7; mov dx, PORT; out dx, al; hlt
const CODE: [u8; 13] =
    [0x89, 0x05, 0x83, 0xC7, 0x02, 0x49, 0x75, 0xF8, 0xBA, 0xF8, 0x03, 0xEE, 0xF4];

#[repr(C)]
struct Region {
    slot: u32,
    flags: u32,
    guest_address: u64,
    bytes: u64,
    address: u64,
}

#[repr(C)]
struct DirtyLog {
    slot: u32,
    padding: u32,
    bitmap: *mut u64,
}

#[repr(C)]
#[derive(Default)]
struct Registers {
    ax_bx_cx_dx: [u64; 4],
    si_di_sp_bp: [u64; 4],
    r8_to_r15: [u64; 8],
    ip: u64,
    flags: u64,
}

fn call<T>(file: &File, request: u64, argument: *mut T) -> i32 {
    let result = unsafe { ioctl(file.as_raw_fd(), request, argument) };
    assert!(result >= 0, "ioctl {:x}: {}", request, std::io::Error::last_os_error());
    result
}

fn number(file: &File, request: u64, argument: u64) -> i32 {
    call(file, request, argument as *mut c_void)
}

fn owned(fd: RawFd) -> File {
    unsafe { File::from_raw_fd(fd) }
}

fn map(length: usize, flags: i32, fd: RawFd) -> *mut u8 {
    let at = unsafe { mmap(std::ptr::null_mut(), length, READ_WRITE, flags, fd, 0) };
    assert!(at as isize != -1, "mmap: {}", std::io::Error::last_os_error());
    at as *mut u8
}

/// What a program does with files beside its VM.
fn use_files() {
    let kind = fs::metadata("/dev/kvm").expect("metadata of /dev/kvm").file_type();
    assert!(kind.is_char_device());
    let folder = std::env::temp_dir().join(format!("quire-rust-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("file");
    File::create(&path).unwrap().write_all(b"some bytes").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 10);
    let mut text = String::new();
    File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "some bytes");
    fs::copy(&path, folder.join("copy")).unwrap();
    let names = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).count();
    assert_eq!(names, 2);
    fs::remove_dir_all(&folder).unwrap();
    assert!(fs::metadata(&folder).is_err());
    assert!(OpenOptions::new().read(true).open("/nonexistent").is_err());
}

/// Sets a vCPU to real mode at address 0, with its page and its number in registers.
fn set_up(vcpu: &File, id: usize) {
    let mut special = [0u8; 312];
    call(vcpu, GET_SREGS, special.as_mut_ptr());
    // Base and selector of CS.
    special[0..8].fill(0);
    special[12..14].fill(0);
    call(vcpu, SET_SREGS, special.as_mut_ptr());
    let mut registers = Registers { flags: 2, ..Default::default() };
    registers.ax_bx_cx_dx = [0x1100 + id as u64, 0, PAGE as u64 / 2, 0];
    registers.si_di_sp_bp[1] = ((id + 1) * PAGE) as u64;
    call(vcpu, SET_REGS, &mut registers);
}

fn run_vcpu(vcpu: File, id: usize, run_bytes: usize, start: Arc<Barrier>) {
    let run = map(run_bytes, SHARED, vcpu.as_raw_fd());
    let read32 = |at: usize| unsafe { (run.add(at) as *const u32).read_volatile() };
    set_up(&vcpu, id);
    start.wait();
    number(&vcpu, RUN, 0);
    assert_eq!(read32(8), EXIT_IO);
    assert_eq!(read32(32) >> 16, PORT as u32);
    let data = read32(40) as usize;
    assert_eq!(unsafe { run.add(data).read_volatile() }, id as u8);
    number(&vcpu, RUN, 0);
    assert_eq!(read32(8), EXIT_HLT);
    unsafe { munmap(run as *mut c_void, run_bytes) };
}

fn main() {
    use_files();
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").expect("/dev/kvm");
    assert_eq!(number(&kvm, GET_API_VERSION, 0), 12);
    let run_bytes = number(&kvm, GET_VCPU_MMAP_SIZE, 0) as usize;
    let vm = owned(number(&kvm, CREATE_VM, 0));
    let memory = map(MEMORY, PRIVATE_ANONYMOUS, -1);
    unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), memory, CODE.len()) };
    let mut region = Region { slot: 0, flags: LOG_DIRTY_PAGES, guest_address: 0,
                              bytes: MEMORY as u64, address: memory as u64 };
    // A clone of the descriptor is the same VM.
    let twin = vm.try_clone().expect("try_clone");
    call(&twin, SET_USER_MEMORY_REGION, &mut region);
    drop(twin);
    let start = Arc::new(Barrier::new(VCPUS));
    let threads: Vec<_> = (0..VCPUS).map(|id| {
        let vcpu = owned(number(&vm, CREATE_VCPU, id as u64));
        let start = start.clone();
        thread::spawn(move || run_vcpu(vcpu, id, run_bytes, start))
    }).collect();
    for thread in threads {
        thread.join().expect("a vCPU's thread");
    }
    for id in 0..VCPUS {
        for at in ((id + 1) * PAGE..(id + 2) * PAGE).step_by(2) {
            let word = unsafe { (memory.add(at) as *const u16).read_volatile() };
            assert_eq!(word, 0x1100 + id as u16);
        }
    }
    let mut bitmap = 0u64;
    call(&vm, GET_DIRTY_LOG, &mut DirtyLog { slot: 0, padding: 0, bitmap: &mut bitmap });
    // A fault for reading may map a page with W too, which logs it: page 0 says nothing.
    assert_eq!(bitmap >> 1, (1 << VCPUS) - 1);
    println!("{} vCPUs in Rust threads wrote {} pages", VCPUS, VCPUS);
}
