//! Any bytes: tensors, or an error.
#![no_main]

use nnq::formats::weights::read_bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = read_bytes(&bytes::Bytes::copy_from_slice(data));
});
