//! Memory that reading a configuration needed and running it does not.

/// Gives free pages back to the kernel. Without it they stay until the threads that freed them allocate again, and those
/// that read configuration sleep. Costs a system call for each run of free pages; workers' pages are not touched but for
/// those that are free.
pub(crate) fn give_back() {
    // SAFETY: both names are jemalloc's own, end in NUL, and take and give no value, so that no pointer is looked at. An
    // unknown name would be an error that changes nothing.
    unsafe {
        for name in [c"thread.tcache.flush", c"arena.4096.purge"] {
            let none = std::ptr::null_mut();
            tikv_jemalloc_sys::mallctl(name.as_ptr(), none, std::ptr::null_mut(), none, 0);
        }
    }
}
