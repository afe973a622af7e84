//! What a request allocates, once the connections are open and the buffers have grown: it is counted, because time is not
//! the same on every machine and allocations are.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Sidecar, scripted, service};

/// Counts what threads allocate that have not asked to be left out.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    // A thread that is ending has no flag any more.
    if !LEFT_OUT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: test\r\ncontent-type: text/plain\r\netag: \"1\"\r\ncontent-length: 5\r\n\r\nhello";
const WARM_UP: u64 = 500;
const COUNTED: u64 = 2_000;

#[test]
fn a_request_allocates_next_to_nothing() {
    let upstream = scripted(ANSWER);
    let sidecar = Sidecar::start(&service("svc", &[upstream]));
    let mut client = TcpStream::connect(sidecar.outbound()).unwrap();
    LEFT_OUT.set(true);
    let mut ask = || {
        client.write_all(b"GET /a HTTP/1.1\r\nHost: svc\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n").unwrap();
        let (mut seen, mut bytes) = (0, [0; 4096]);
        while !bytes[..seen].ends_with(b"hello") {
            let count = client.read(&mut bytes[seen..]).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&bytes[..seen]));
            seen += count;
        }
        assert!(bytes.starts_with(b"HTTP/1.1 200"));
    };
    (0..WARM_UP).for_each(|_| ask());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..COUNTED).for_each(|_| ask());
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The ledger's samples fill a block of 128 accounts now and then, and the control threads tick.
    assert!(made < COUNTED / 10, "{made} allocations for {COUNTED} requests");
}
