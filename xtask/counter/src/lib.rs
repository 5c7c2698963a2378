//! A plugin of QEMU's that counts the instructions of a guest, for `cargo xtask bench instructions`.
//!
//! `-plugin file=libdatum_counter.so,count=PATH`: PATH is a file of eight bytes, which hold the count at any moment, in
//! the host's order of bytes. QEMU adds to them itself, a translated block at a time, so the guest runs nearly as fast as
//! without. Only for machines with one processor: additions of several would be lost.
//!
//! The interface is that of QEMU's `include/qemu/qemu-plugin.h`, version 1. Debian ships no header of it, and what is used
//! of it is little.

use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::OpenOptions;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What a plugin is called by.
type PluginId = u64;

/// A block of translated code.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

/// `QEMU_PLUGIN_INLINE_ADD_U64`, the only operation there is.
const ADD: c_int = 0;

/// Bytes of the count.
const COUNT_BYTES: usize = size_of::<u64>();

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, translated: extern "C" fn(PluginId, *mut Block));
    fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        operation: c_int,
        counter: *mut c_void,
        value: u64,
    );
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
}

/// The version of the interface; QEMU looks it up by this name.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// Where the count lies; null until [`qemu_plugin_install`].
static COUNTER: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// QEMU calls it once, before the guest starts. Anything but 0 ends QEMU.
///
/// # Safety
/// `arguments` points to `count` texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let mut path = None;
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: QEMU passes so many texts, each ending in a zero byte.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        path = argument.to_str().ok().and_then(|text| text.strip_prefix("count=")).or(path);
    }
    let Some(path) = path else {
        eprintln!("datum-counter: say where to count, with count=PATH");
        return 1;
    };
    match map(path) {
        Ok(counter) => COUNTER.store(counter, Ordering::Relaxed),
        Err(error) => {
            eprintln!("datum-counter: {path}: {error}");
            return 1;
        }
    }
    // SAFETY: the function has the type that QEMU calls, and stays for as long as the plugin.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}

/// The file's bytes in memory, for as long as QEMU runs.
fn map(path: &str) -> std::io::Result<*mut c_void> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(COUNT_BYTES as u64)?;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the system's choice; nothing in this process refers to it but QEMU's additions.
    Ok(unsafe { mmap(null_mut(), COUNT_BYTES, rights, MapFlags::SHARED, &file, 0) }?)
}

/// QEMU calls it for each block that it translates: when that is executed, its instructions count.
extern "C" fn translated(_id: PluginId, block: *mut Block) {
    // SAFETY: the block is valid during this call, and the counter is mapped for as long as QEMU runs.
    unsafe {
        let instructions = qemu_plugin_tb_n_insns(block) as u64;
        qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, COUNTER.load(Ordering::Relaxed), instructions);
    }
}
