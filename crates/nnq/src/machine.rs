//! The machine that a measurement was made on.
use serde::{Deserialize, Serialize};

/// The processor, as far as it says what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Threads that can run at once.
    pub cores: usize,
    /// The instruction sets that matter for 8-bit and float products.
    pub features: Vec<String>,
}

/// Names of features as Linux lists them.
const FEATURES: [&str; 13] = [
    "avx2",
    "fma",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
];

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self::from_cpuinfo(&text, std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn from_cpuinfo(text: &str, cores: usize) -> Self {
        let field = |names: &[&str]| {
            let pairs = text.lines().filter_map(|l| l.split_once(':'));
            pairs.map(|(k, v)| (k.trim(), v.trim())).find(|(k, _)| names.contains(k)).map(|(_, v)| v)
        };
        let has: Vec<&str> = field(&["flags", "Features"]).unwrap_or_default().split_ascii_whitespace().collect();
        let cpu = field(&["model name", "Hardware", "Processor"]).unwrap_or(std::env::consts::ARCH).to_owned();
        let features = FEATURES.iter().filter(|f| has.contains(f)).map(|&f| f.to_owned()).collect();
        Self { cpu, cores, features }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_lists() {
        let text =
            "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512_vnni sse\n\nprocessor\t: 1\n";
        let machine = Machine::from_cpuinfo(text, 2);
        assert_eq!((machine.cpu.as_str(), machine.cores), ("Fast CPU @ 3 GHz", 2));
        assert_eq!(machine.features, ["avx2", "avx512_vnni"]);
        assert_eq!(Machine::from_cpuinfo("", 1).cpu, std::env::consts::ARCH);
    }
}
