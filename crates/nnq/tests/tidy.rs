//! The walls of the architecture: which floor may import which, where unsafe code and rounding may stand, how long a file may be.
//! `ARCHITECTURE.md` has the reasons. Every breach is reported, not the first.
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What each top module of the crate may import from the crate. The most specific line counts.
const FLOORS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("ir", &["error"]),
    ("exec", &["error", "ir"]),
    // The simulator shares the lowering with the integer engine, and nothing else; both call the float executor.
    ("exec::lower", &["error", "ir", "exec::lower", "exec::float"]),
    ("exec::sim", &["error", "ir", "exec::lower", "exec::float", "exec::thread_pool", "exec::check_inputs"]),
    ("exec::int", &["error", "ir", "exec::lower", "exec::float", "exec::thread_pool", "exec::check_inputs"]),
    ("exec::float", &["error", "ir"]),
    ("formats", &["error", "ir"]),
    ("data", &["error", "ir"]),
    ("quant", &["error", "ir", "exec", "data"]),
    // The mathematics looks at statistics and tensors and runs nothing.
    ("quant::observer", &["error", "ir", "quant::observer"]),
    ("quant::range", &["error", "ir", "quant::observer"]),
    // Facades: what the faces call.
    ("analyze", ANY),
    ("bench", ANY),
    ("demo", ANY),
    ("engine", ANY),
    ("eval", ANY),
    ("inspect", ANY),
    ("judge", ANY),
    ("numbers", ANY),
    ("quantize", ANY),
    ("run", ANY),
    ("search", ANY),
    ("staging", &["error"]),
    ("machine", &[]),
    ("text", ANY),
    ("tune", ANY),
    ("zoo", ANY),
    ("lib", ANY),
];
const ANY: &[&str] = &[
    "data", "error", "exec", "formats", "ir", "quant", "analyze", "bench", "demo", "engine", "eval", "inspect",
    "judge", "quantize", "run", "search", "staging", "machine", "text", "tune", "zoo",
];

/// Which crates of the workspace (and burn, which only training knows) each crate may name.
const CRATES: &[(&str, &[&str])] = &[
    ("crates/nnq-kernels/", &[]),
    ("crates/nnq/", &["nnq_kernels"]),
    ("crates/nnq-train/", &["nnq", "nnq_kernels", "burn"]),
    ("crates/nnq-cli/", &["nnq", "nnq_train"]),
];

/// Files besides `nnq-kernels/src/round.rs` that round, and why that is no quantization.
const ROUNDERS: &[(&str, &str)] = &[
    ("crates/nnq/src/ir/infer/resize.rs", "ONNX Resize rounds sizes half up"),
    ("crates/nnq/src/exec/float/resize/line.rs", "ONNX Resize picks the nearest sample by its own modes"),
    ("crates/nnq/src/exec/float/resize/mod.rs", "ONNX Resize rounds sizes half up"),
    ("crates/nnq/src/data/resize.rs", "image resampling: the pixels under a filter"),
    ("crates/nnq/src/quant/range/entropy.rs", "counts the codes of a candidate range"),
    ("crates/nnq/src/quant/range/loss.rs", "integrates the distance to the nearest integer"),
];

const MAX_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every Rust file under the workspace's own folders, by its path from the root.
fn files() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut stack: Vec<PathBuf> = ["crates", "xtask"].iter().map(|d| root().join(d)).collect();
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                stack.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                out.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    out.sort();
    out
}

/// The code with comments and the content of strings and characters blanked; lines stay.
fn code(text: &str) -> String {
    let b: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let at = |i: usize| b.get(i).copied().unwrap_or('\0');
    let blank = |out: &mut String, from: usize, to: usize| {
        (from..to.min(b.len())).for_each(|k| out.push(if b[k] == '\n' { '\n' } else { ' ' }));
    };
    while i < b.len() {
        let start = i;
        let word_before = out.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if at(i) == '/' && at(i + 1) == '/' {
            while i < b.len() && b[i] != '\n' {
                i += 1;
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= b.len() {
                    break;
                }
            }
        } else if at(i) == 'r' && !word_before && (at(i + 1) == '"' || at(i + 1) == '#' && "#\"".contains(at(i + 2))) {
            let hashes = (1..).take_while(|&k| at(i + k) == '#').count();
            i += hashes + 2;
            while i < b.len() && !(b[i] == '"' && (1..=hashes).all(|k| at(i + k) == '#')) {
                i += 1;
            }
            i += hashes + 1;
        } else if at(i) == '"' {
            i += 1;
            while i < b.len() && b[i] != '"' {
                i += if b[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < b.len() && b[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            out.push(b[i]);
            i += 1;
            continue;
        }
        blank(&mut out, start, i);
    }
    out
}

/// Blanks modules under `#[cfg(test)]`: tests may look everywhere.
fn without_tests(code: &str) -> String {
    let mut out = code.to_string();
    while let Some(at) = out.find("#[cfg(test)]") {
        let rest = &out[at..];
        let open = rest.find('{').unwrap_or(rest.len());
        let end = match rest.find(';').filter(|&s| s < open) {
            Some(s) => s + 1,
            None => {
                let mut depth = 0;
                let close = rest.char_indices().find(|&(_, c)| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == '}' && depth == 0
                });
                close.map_or(rest.len(), |(i, _)| i + 1)
            }
        };
        let blank: String = rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..at + end, &blank);
    }
    out
}

/// Is this a file of tests?
fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// Every path below `crate` or `super` in the code, made absolute, with groups written out.
fn imports(module: &[String], code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..i].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let mut base = if code[i..].starts_with("crate") { Vec::new() } else { module.to_vec() };
        let mut rest = &code[i..];
        while let Some(r) = rest.strip_prefix("super::") {
            base.pop();
            rest = r;
        }
        rest = rest.strip_prefix("crate::").unwrap_or(rest);
        let mut paths = Vec::new();
        tree(&base, rest, &mut paths);
        let line = code[..i].matches('\n').count() + 1;
        found.extend(paths.into_iter().map(|p| (line, p.join("::"))));
    }
    found
}

/// Reads one use tree; answers what is left after it.
fn tree<'a>(base: &[String], text: &'a str, out: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = base.to_vec();
    let mut text = text.trim_start();
    loop {
        if let Some(mut rest) = text.strip_prefix('{') {
            loop {
                rest = rest.trim_start();
                match rest.chars().next() {
                    Some('}') => return &rest[1..],
                    Some(',') => rest = &rest[1..],
                    None => return rest,
                    Some(_) => {
                        let next = tree(&path, rest, out);
                        // Whatever is no use tree ends the group.
                        if next.len() == rest.len() {
                            return next;
                        }
                        rest = next;
                    }
                }
            }
        }
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        if end == 0 {
            out.push(path);
            return text.strip_prefix('*').unwrap_or(text);
        }
        path.push(text[..end].to_string());
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(r) => text = r,
            None => {
                out.push(path);
                // `x as y`
                let trimmed = text.trim_start();
                if let Some(r) = trimmed.strip_prefix("as ") {
                    let end = r.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(r.len());
                    return &r[end..];
                }
                return text;
            }
        }
    }
}

/// The module path of a file of the crate: `ir/infer/mod.rs` is `ir::infer`.
fn module(name: &str) -> Vec<String> {
    let inner = name.strip_prefix("crates/nnq/src/").unwrap().strip_suffix(".rs").unwrap();
    let mut parts: Vec<String> = inner.split('/').map(String::from).collect();
    if parts.last().is_some_and(|p| p == "mod") {
        parts.pop();
    }
    parts
}

fn under(path: &str, of: &str) -> bool {
    path == of || path.strip_prefix(of).is_some_and(|r| r.starts_with("::"))
}

/// The rule for a module: its floor and what that may import.
fn rule(own: &str) -> Option<(&'static str, &'static [&'static str])> {
    FLOORS.iter().filter(|(f, _)| under(own, f)).max_by_key(|(f, _)| f.len()).copied()
}

/// May a module of this floor import this path? What the crate's root re-exports (the error type) is for everyone.
fn may_import((floor, allowed): (&str, &[&str]), path: &str) -> bool {
    let first = path.split("::").next().unwrap_or_default();
    let known = FLOORS.iter().any(|(f, _)| *f == first);
    !known || under(path, floor) || allowed.iter().any(|a| under(path, a))
}

#[test]
fn imports_go_down_only() {
    let mut bad = Vec::new();
    for (name, text) in files() {
        if !name.starts_with("crates/nnq/src/") || is_test(&name) {
            continue;
        }
        let here = module(&name);
        let Some(rule) = rule(&here.join("::")) else {
            bad.push(format!("{name}: a top module without a line in FLOORS"));
            continue;
        };
        for (line, path) in imports(&here, &without_tests(&code(&text))) {
            if !may_import(rule, &path) {
                bad.push(format!("{name}:{line}: {} may not import {path}", rule.0));
            }
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn crates_import_down_only() {
    let mut bad = Vec::new();
    for (name, text) in files() {
        let Some((own, allowed)) = CRATES.iter().find(|(dir, _)| name.starts_with(dir)) else { continue };
        let itself = own.trim_start_matches("crates/").trim_end_matches('/').replace('-', "_");
        for (n, line) in code(&text).lines().enumerate() {
            for other in ["nnq", "nnq_kernels", "nnq_train", "burn"] {
                let word = |i: usize| {
                    let before = line[..i].chars().next_back();
                    let path = line[i + other.len()..].starts_with("::");
                    path && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                };
                let named = line.match_indices(other).any(|(i, _)| word(i));
                // Tests of a library call it by its name.
                if named && other != itself && !allowed.contains(&other) {
                    bad.push(format!("{name}:{}: {own} may not import {other}", n + 1));
                }
            }
        }
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn the_floors_are_what_they_say() {
    for (own, path, want) in [
        ("ir::pass::view", "exec::float::eval", false),
        ("ir::pass::view", "ir::Graph", true),
        ("exec::sim", "exec::int::plan", false),
        ("exec::int::plan", "exec::lower::Program", true),
        ("exec::float::unary", "exec::lower", false),
        ("exec::float::unary", "quant::range", false),
        ("quant::observer::sketch", "exec::float::Session", false),
        ("quant::observer::sketch", "quant::ptq", false),
        ("quant::ptq", "exec::float::Session", true),
        ("quant::ptq", "formats::onnx", false),
        ("formats::onnx::write", "quant", false),
        ("data::image", "Result", true),
    ] {
        assert_eq!(may_import(rule(own).unwrap(), path), want, "{own} imports {path}");
    }
}

#[test]
fn only_the_kernels_are_unsafe() {
    let mut bad = Vec::new();
    for (name, text) in files() {
        if name.starts_with("crates/nnq-kernels/") {
            continue;
        }
        for (n, line) in code(&text).lines().enumerate() {
            if line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == "unsafe") {
                bad.push(format!("{name}:{}", n + 1));
            }
        }
    }
    assert!(bad.is_empty(), "unsafe code outside of nnq-kernels:\n{}", bad.join("\n"));
    for crate_ in ["nnq", "nnq-train"] {
        let lib = fs::read_to_string(root().join(format!("crates/{crate_}/src/lib.rs"))).unwrap();
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{crate_}");
    }
}

/// Does this line round to an integer? Printing and `floor` alone do not.
fn rounds(line: &str) -> bool {
    let half_up = line.match_indices("0.5)").any(|(i, _)| {
        let rest = line[i + 4..].trim_start();
        rest.starts_with(".floor") || rest.starts_with(".trunc") || rest.starts_with("as ")
    });
    let calls =
        ["round_ties_even", ".round()", "libm::round", "rintf(", "rint(", "roundeven", "f32::round", "f64::round"];
    // `encode_varint(` and the like end in the same letters.
    half_up
        || calls.iter().any(|c| {
            line.match_indices(c)
                .any(|(i, _)| !(c.starts_with('r') && line[..i].ends_with(|c: char| c.is_alphanumeric())))
        })
}

#[test]
fn one_file_rounds() {
    let mut bad = Vec::new();
    let mut used = vec![false; ROUNDERS.len()];
    for (name, text) in files() {
        if name == "crates/nnq-kernels/src/round.rs" || is_test(&name) || name.contains("/benches/") {
            continue;
        }
        let allowed = ROUNDERS.iter().position(|(f, _)| *f == name);
        for (n, line) in without_tests(&code(&text)).lines().enumerate().filter(|(_, l)| rounds(l)) {
            match allowed {
                Some(i) => used[i] = true,
                None => bad.push(format!("{name}:{}: {}", n + 1, line.trim())),
            }
        }
    }
    let stale = ROUNDERS.iter().zip(used).filter(|(_, u)| !u);
    bad.extend(stale.map(|((f, why), _)| format!("{f} is listed ({why}) and does not round")));
    assert!(bad.is_empty(), "call nnq_kernels::round, or list the file with its reason:\n{}", bad.join("\n"));
}

#[test]
fn no_file_is_long() {
    let long: Vec<String> = files()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, n)| *n > MAX_LINES)
        .map(|(name, n)| format!("{name}: {n} lines, at most {MAX_LINES}"))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

/// The scanner itself, on what it must see and must not.
#[test]
fn the_scanner_sees() {
    let here = ["ir".to_string(), "infer".to_string(), "pool".to_string()];
    let text = r##"
        use crate::{error::{At, Error}, ir::{self, op::{A, B as C}}, exec};
        // use crate::data;
        /* use crate::data; /* crate::data */ */
        use super::super::super::formats::onnx;
        fn f<'a>(c: char) -> &'a str { if c == '"' || c == '\'' { "crate::data" } else { r#"crate::"data""# } }
        let x = crate::quant::observer::make(1);
        #[cfg(test)]
        mod tests { use crate::data; fn f() { } }
        use super::fact::*;
    "##;
    let found: Vec<String> = imports(&here, &without_tests(&code(text))).into_iter().map(|(_, p)| p).collect();
    let want = [
        "error::At",
        "error::Error",
        "ir::self",
        "ir::op::A",
        "ir::op::B",
        "exec",
        "quant::observer::make",
        "formats::onnx",
        "ir::infer::fact",
    ];
    assert_eq!(found, want);
    for (line, want) in [
        ("x.round_ties_even()", true),
        ("x.round() as i32", true),
        ("(x + 0.5).floor()", true),
        ("(x + 0.5) as usize", true),
        ("libm::rint(x)", true),
        ("f64::round(x)", true),
        ("x.floor()", false),
        ("rounder.round(&real, shape)", false),
        ("encode_varint(x)", false),
        ("(a - 0.5).abs()", false),
        ("round::quantize(x)", false),
    ] {
        assert_eq!(rounds(line), want, "{line}");
    }
}
