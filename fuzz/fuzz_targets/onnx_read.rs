//! Any bytes: a graph that can be written again, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(graph) = nnq::formats::onnx::read_bytes(bytes::Bytes::copy_from_slice(data), None) {
        let _ = nnq::formats::onnx::to_bytes(&graph, &Default::default());
    }
});
