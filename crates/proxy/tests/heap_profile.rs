//! A heap profile of this very process, with jemalloc as its allocator.

use std::io::Read as _;

use pprof::protos::{Message as _, Profile};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// Every 4 KiB one sample, so that a small test sees its own blocks.
// SAFETY: the name is the one that jemalloc declares as a weak `const char *`, and `Option<&c_char>` has that layout.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    Some(unsafe { &*c"prof:true,prof_active:false,lg_prof_sample:12".as_ptr() });

#[inline(never)]
fn hold_memory_for_the_profile() -> Vec<Vec<u8>> {
    (0..64).map(|i| vec![i; 64 << 10]).collect()
}

#[tokio::test]
async fn what_is_held_is_in_the_profile() {
    let pool = celerity_proxy::blocking::BlockingPool::new(Default::default());
    celerity_proxy::admin::pprof::heap_profile(Some(1), &pool).await.unwrap();
    let held = hold_memory_for_the_profile();
    let gzipped = celerity_proxy::admin::pprof::heap_profile(None, &pool).await.unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&*gzipped).read_to_end(&mut bytes).unwrap();
    let profile = Profile::decode(&*bytes).unwrap();
    let text = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
    assert_eq!(profile.sample_type.iter().map(|ty| text(ty.ty)).collect::<Vec<_>>(), ["inuse_objects", "inuse_space"]);
    let function = |id: u64| text(profile.function[usize::try_from(id).unwrap() - 1].name);
    let ours = |location: &u64| {
        let location = &profile.location[usize::try_from(*location).unwrap() - 1];
        location.line.iter().any(|line| function(line.function_id).contains("hold_memory_for_the_profile"))
    };
    let bytes: i64 = profile.sample.iter().filter(|s| s.location_id.iter().any(ours)).map(|s| s.value[1]).sum();
    // Sampled, so not exact: 4 MiB are held.
    assert!((2 << 20..8 << 20).contains(&bytes), "{bytes} of {} samples", profile.sample.len());
    drop(held);
}
