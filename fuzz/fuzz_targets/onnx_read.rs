//! Any bytes: a graph that can be written again and whose quantization nodes can be looked for, or an error.
#![no_main]

use nnq::formats::onnx::{quantized, read_bytes, to_bytes};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(graph) = read_bytes(bytes::Bytes::copy_from_slice(data), None) {
        let _ = to_bytes(&graph, &Default::default());
        if let Ok(graph) = quantized::absorb(&graph) {
            let _ = quantized::to_qdq(&graph).and_then(|g| to_bytes(&g, &Default::default()));
            let _ = quantized::to_qoperator(&graph).and_then(|g| to_bytes(&g, &Default::default()));
        }
    }
});
