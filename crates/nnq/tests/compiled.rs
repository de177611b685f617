//! A compiled plan gives the bits of the model it was made from, and a damaged one gives an error.

use crate::networks::{Network, bits, part, program};
use bytes::Bytes;
use nnq::exec::{int, lower::Profile};
use nnq_kernels::{
    Isa,
    conv::Way,
    tape::{Choice, Split},
};

fn options(isa: Option<Isa>, threads: usize) -> int::Options {
    int::Options { threads, isa, separate: false }
}

#[test]
fn the_same_bits_from_a_file() {
    let network = Network::demo();
    let x = part(&network.batch(2), 0..2);
    let quantized = network.quantize();
    for profile in [Profile::Dyadic, Profile::Onnx] {
        let whole = program(&quantized.graph, profile);
        for &isa in Isa::all() {
            if !isa.is_supported() {
                println!("skipped: {} is not on this machine", isa.name());
                continue;
            }
            let mut session = int::Session::new(whole.clone(), &options(Some(isa), 1)).unwrap();
            let expected = bits(&session.run(vec![x.clone()]).unwrap()[0]);
            let one = part(&x, 0..1);
            let expected_of_one = bits(&session.run(vec![one.clone()]).unwrap()[0]);
            let shapes = [&x, &one].map(|x| vec![x.shape().to_vec()]);
            let file = Bytes::from(session.compile(shapes.to_vec()).unwrap());
            let alone = session.compile(shapes[..1].to_vec()).unwrap();
            assert!(file.len() < alone.len() * 3 / 2, "weights are in the file once");
            for threads in [1, 2] {
                let mut loaded = int::Session::from_compiled(&file, &options(Some(isa), threads)).unwrap();
                assert_eq!((loaded.profile(), loaded.threads()), (profile, threads));
                assert_eq!(loaded.batches().unwrap(), [1, 2]);
                for shapes in &shapes {
                    // What the plan says of memory is in the file.
                    assert_eq!(loaded.memory(shapes), session.memory(shapes));
                }
                let got = bits(&loaded.run(vec![x.clone()]).unwrap()[0]);
                assert!(got == expected, "{} {profile} {threads} threads", isa.name());
                assert!(bits(&loaded.run(vec![one.clone()]).unwrap()[0]) == expected_of_one);
                // Another batch has no plan.
                let e = loaded.run(vec![network.batch(3)]).unwrap_err().to_string();
                assert!(e.contains("batches of 1, 2") && e.contains("--batch 3"), "{e}");
            }
        }
    }
}

#[test]
fn what_is_chosen_by_trying_changes_no_bit_and_is_kept() {
    let network = Network::demo();
    let x = network.batch(2);
    let shapes = vec![x.shape().to_vec()];
    for threads in [1, 2] {
        let program = program(&network.quantize().graph, Profile::Dyadic);
        let mut session = int::Session::new(program, &options(None, threads)).unwrap();
        let expected = bits(&session.run(vec![x.clone()]).unwrap()[0]);
        let (mut choices, mut last) = (int::Choices::new(), (0, 0));
        session
            .tune(&shapes, &mut choices, &mut |done, of| {
                last = (done, of);
                Ok(())
            })
            .unwrap();
        assert!(last.0 == last.1 && last.1 > 0 && !choices.is_empty(), "{last:?}");
        assert!(bits(&session.run(vec![x.clone()]).unwrap()[0]) == expected);
        // A progress that wants no more ends it.
        let mut heard = 0;
        let stop = session.tune(&shapes, &mut int::Choices::new(), &mut |_, _| {
            heard += 1;
            Err(nnq::Error::usage("enough"))
        });
        assert!(heard == 1 && stop.unwrap_err().to_string().contains("enough"));
        // All that can be chosen, one after another, as if each had been the fastest; none is tried again.
        let descriptions: Vec<String> = choices.keys().cloned().collect();
        let odd = |i: usize| Choice {
            way: Way { vectors: i & 1 == 0, patches: i & 2 == 0, block: [0, 16, 1024][i % 3] },
            split: (i & 3 > 0).then_some(Split { by_panels: i & 1 == 1, pieces: 1 << (i % 5) }),
        };
        for shift in 0..12 {
            let mut given: int::Choices =
                descriptions.iter().enumerate().map(|(i, d)| (d.clone(), odd(i + shift))).collect();
            let before = given.clone();
            session.tune(&shapes, &mut given, &mut |_, _| Ok(())).unwrap();
            assert!(given == before);
            assert!(bits(&session.run(vec![x.clone()]).unwrap()[0]) == expected, "{threads} threads, {given:?}");
            let file = Bytes::from(session.compile(vec![shapes.clone()]).unwrap());
            let mut loaded = int::Session::from_compiled(&file, &options(None, threads)).unwrap();
            assert!(bits(&loaded.run(vec![x.clone()]).unwrap()[0]) == expected, "{threads} threads, {given:?}");
        }
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let network = Network::demo();
    let x = network.batch(1);
    let whole = program(&network.quantize().graph, Profile::Dyadic);
    let isa = Some(Isa::Scalar);
    let mut session = int::Session::new(whole, &options(isa, 1)).unwrap();
    let file = session.compile(vec![vec![x.shape().to_vec()]]).unwrap();
    let open = |bytes: Vec<u8>| int::Session::from_compiled(&Bytes::from(bytes), &options(isa, 1));
    let head = 48 + u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    for len in (0..head).step_by(97).chain([head, head + 1, file.len() - 1]) {
        let e = open(file[..len].to_vec()).err().unwrap_or_else(|| panic!("{len} bytes are accepted")).to_string();
        assert!(e.contains("damaged"), "{len}: {e}");
    }
    for at in (0..head).step_by(53) {
        let mut bytes = file.clone();
        bytes[at] ^= 0x10;
        assert!(open(bytes).is_err(), "byte {at}");
    }
    // Other weights are other weights, not a reason to fail.
    let mut bytes = file.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    open(bytes).unwrap().run(vec![x]).unwrap();
    // Made for other instructions than wanted.
    if Isa::Avx2.is_supported() {
        let e =
            int::Session::from_compiled(&Bytes::from(file), &options(Some(Isa::Avx2), 1)).err().unwrap().to_string();
        assert!(e.contains("compile the model again"), "{e}");
    }
}
