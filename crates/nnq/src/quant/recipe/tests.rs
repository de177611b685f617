use super::*;

const FULL: &str = r#"
version = 1
samples = 64
seed = 7
first = "8bit"
last = "float"
logits = "int8"
quantize_add = false

[activation]
bits = 4
range = "percentile:99.9"

[weight]
bits = 4
granularity = "block:32"
range = "mse:2"

[[layer]]
match = "blocks.*/attn?"
activation.bits = 8

[[layer]]
op = "Conv"
weight = { bits = 6, granularity = "channel", narrow = "always" }

[[layer]]
match = "conv[0]"
op = "Conv"
keep_float = true
"#;

#[test]
fn defaults_round_trip_and_name_everything() {
    let r = Recipe::default();
    r.check().unwrap();
    let text = r.to_toml().unwrap();
    assert_eq!(Recipe::from_toml(&text).unwrap(), r);
    assert_eq!(Recipe::from_toml("").unwrap(), r);
    // Every field is in the text, so that later defaults cannot change its meaning.
    for field in [
        "version",
        "samples",
        "seed",
        "first",
        "last",
        "logits",
        "quantize_add",
        "quantize_concat",
        "[activation]",
        "[weight]",
        "bits",
        "signed",
        "symmetric",
        "narrow",
        "granularity",
        "range",
    ] {
        assert!(text.contains(field), "{field} is missing in\n{text}");
    }
    // int8: asymmetric u8 activations per tensor, symmetric narrow i8 weights per channel.
    let l = r.resolve("any", "Conv").unwrap();
    assert_eq!(l.activation.scheme(), Scheme { qtype: QType::U8, symmetric: false });
    let w = l.weight.scheme(0, 1);
    assert_eq!((w.qtype, w.symmetric, w.granularity), (QType::I8_NARROW, true, Granularity::Channel { axis: 0 }));
    assert!(!l.keep_float);
}

#[test]
fn a_full_recipe_round_trips() {
    let r = Recipe::from_toml(FULL).unwrap();
    let text = r.to_toml().unwrap();
    assert_eq!(Recipe::from_toml(&text).unwrap(), r, "{text}");
    assert_eq!(Recipe::from_toml(&text).unwrap().to_toml().unwrap(), text);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.toml");
    std::fs::write(&path, &text).unwrap();
    assert_eq!(Recipe::load(&path).unwrap(), r);
}

#[test]
fn overrides_apply_in_order() {
    let r = Recipe::from_toml(FULL).unwrap();
    let l = r.resolve("fc", "Gemm").unwrap();
    assert_eq!((l.activation.bits, l.weight.bits), (4, 4));
    assert_eq!(l.weight.scheme(0, 1).granularity, Granularity::Block { axis: 1, size: 32 });
    assert_eq!(l.weight.scheme(0, 1).qtype, QType { bits: 4, signed: true, narrow: false });
    // The pattern crosses slashes and dots.
    let l = r.resolve("blocks.3/x/attn1", "MatMul").unwrap();
    assert_eq!((l.activation.bits, l.weight.bits), (8, 4));
    // Both; what an override does not name stays.
    let l = r.resolve("blocks.3/attn1", "Conv").unwrap();
    assert_eq!((l.activation.bits, l.weight.bits, l.weight.range), (8, 6, WeightRange::Mse { p: 2.0 }));
    assert!(l.weight.scheme(0, 1).qtype.narrow && !l.keep_float);
    // A name that looks like a pattern is found literally, and as a pattern.
    assert!(r.resolve("conv[0]", "Conv").unwrap().keep_float);
    assert!(r.resolve("conv0", "Conv").unwrap().keep_float);
    assert!(!r.resolve("conv[0]", "Gemm").unwrap().keep_float);
    // First and last; overrides win over them.
    let l = r.resolve_at("fc", "Gemm", Position::First).unwrap();
    assert_eq!((l.activation.bits, l.weight.bits, l.keep_float), (8, 8, false));
    assert!(r.resolve_at("fc", "Gemm", Position::Last).unwrap().keep_float);
    assert_eq!(r.resolve_at("c", "Conv", Position::First).unwrap().weight.bits, 6);
    // Typing errors show up.
    let nodes = [("conv1", "Conv"), ("blocks.0/attn", "MatMul")];
    assert_eq!(
        r.unused(nodes.into_iter()).unwrap(),
        ["layer with match = \"blocks.*/attn?\"", "layer with match = \"conv[0]\", op = \"Conv\""]
    );
}

#[test]
fn mistakes_are_named() {
    for (text, words) in [
        ("bits = 4", &["bits", "line 1", "activation"] as &[_]),
        ("[activation]\nbit = 4", &["`bit`", "line 2", "`bits`"]),
        ("[weight]\nbits = 17", &["weight.bits = 17", "2 to 16"]),
        ("[activation]\nbits = 1", &["activation.bits = 1"]),
        ("[activation]\nrange = \"max\"", &["'max' is no range method", "minmax", "line 2"]),
        ("[activation]\nrange = \"percentile:7\"", &["percentile:7"]),
        ("[weight]\nrange = \"kl\"", &["'kl' is no weight range", "absmax"]),
        ("[weight]\ngranularity = \"block:0\"", &["block:0", "block:SIZE"]),
        ("[weight]\nsigned = false", &["weight.symmetric"]),
        ("[weight]\nsigned = false\nsymmetric = false\nnarrow = \"always\"", &["weight.narrow"]),
        ("first = \"int4\"", &["int4", "8bit", "float"]),
        ("version = 9", &["version 9"]),
        ("samples = 0", &["samples"]),
        ("[[layer]]\nkeep_float = true", &["match or op"]),
        ("[[layer]]\nop = \"Conv\"", &["changes nothing", "Conv"]),
        ("[[layer]]\nmatch = \"a[\"\nkeep_float = true", &["a["]),
        ("[[layer]]\nop = \"Conv\"\nweight.bits = 1", &["op = \"Conv\"", "weight.bits = 1"]),
        ("[activation]\nmode = \"live\"", &["live", "static", "dynamic"]),
        ("[activation]\nmode = \"dynamic\"\nbits = 4", &["dynamic", "8 bits", "activation.bits"]),
        ("[activation]\nmode = \"dynamic\"\nsymmetric = true", &["dynamic", "symmetric"]),
        ("[activation]\nmode = \"dynamic\"\n[weight]\nbits = 12", &["weight.bits = 12", "dynamic"]),
        ("compensate = true\n[activation]\nmode = \"dynamic\"", &["layer by layer", "compensate"]),
        ("correct_bias = true\n[[layer]]\nop = \"Gemm\"\nactivation.mode = \"dynamic\"", &["layer by layer"]),
        ("samples = -1", &["line 1"]),
        ("not toml", &["line 1"]),
    ] {
        let e = Recipe::from_toml(text).unwrap_err();
        for word in words {
            assert!(e.to_string().contains(word), "{text}\n gives \n{e}\n without '{word}'");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.toml");
    std::fs::write(&path, "x = 1").unwrap();
    assert!(Recipe::load(&path).unwrap_err().to_string().contains("broken.toml"));
    assert!(Recipe::load(&dir.path().join("none.toml")).unwrap_err().to_string().contains("none.toml"));
    assert!(Recipe { seed: u64::MAX, ..Recipe::default() }.check().is_err());
}

#[test]
fn what_is_found_at_run_time_needs_no_statistics() {
    let of = |text: &str| Recipe::from_toml(text).unwrap();
    for (text, dynamic, statistics) in [
        ("", false, true),
        ("activation.mode = \"dynamic\"", true, false),
        ("logits = \"int8\"\nactivation.mode = \"dynamic\"", true, true),
        ("[activation]\nmode = \"dynamic\"\n[[layer]]\nop = \"Conv\"\nactivation.mode = \"static\"", true, true),
        ("[[layer]]\nop = \"Gemm\"\nactivation.mode = \"dynamic\"", true, true),
    ] {
        assert_eq!((of(text).is_dynamic(), of(text).needs_statistics()), (dynamic, statistics), "{text}");
    }
    let r = of("[activation]\nmode = \"dynamic\"");
    assert_eq!(Recipe::from_toml(&r.to_toml().unwrap()).unwrap(), r);
}
