//! Numbers with as many digits as people want to read.

/// Four significant digits, without an exponent where that reads well.
pub fn digits(x: f64) -> String {
    if !x.is_finite() || x == 0.0 {
        return x.to_string();
    }
    let magnitude = x.abs().log10().floor();
    if !(-4.0..9.0).contains(&magnitude) {
        return format!("{x:.3e}");
    }
    format!("{x:.*}", (3.0 - magnitude).max(0.0) as usize)
}

/// A count with a decimal unit: 950, 64.9 K, 1.21 G.
pub fn count(n: u64) -> String {
    unit(n as f64, 1000.0, &["", " K", " M", " G", " T", " P"])
}

/// A size in binary units: 950 B, 63.4 KiB.
pub fn bytes(n: u64) -> String {
    unit(n as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn unit(mut x: f64, step: f64, names: &[&str]) -> String {
    let mut i = 0;
    while x >= 999.5 && i + 1 < names.len() {
        x /= step;
        i += 1;
    }
    let decimals = match x {
        _ if i == 0 => 0,
        x if x < 9.995 => 2,
        x if x < 99.95 => 1,
        _ => 0,
    };
    format!("{x:.decimals$}{}", names[i])
}

/// A number of things: 1 thread, 2 threads.
pub fn plural(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// A share of one as per cent with two decimals.
pub fn percent(x: f64) -> String {
    format!("{:.2} %", 100.0 * x)
}

/// A duration given in seconds.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{} µs", digits(1e6 * s)),
        s if s < 1.0 => format!("{} ms", digits(1e3 * s)),
        s if s < 100.0 => format!("{} s", digits(s)),
        s => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable() {
        assert_eq!([0.0, 1.0, -12.3456, 0.000123456, 123456.0, 1e-9].map(digits).join(" "), {
            "0 1.000 -12.35 0.0001235 123456 1.000e-9"
        });
        assert_eq!([0, 950, 999, 64_890, 1_213_000_000].map(count).join(" "), "0 950 999 64.9 K 1.21 G");
        assert_eq!([950, 1023, 272_881].map(bytes).join(" "), "950 B 1.00 KiB 266 KiB");
        assert_eq!(percent(0.97949), "97.95 %");
        assert_eq!([0.00002, 0.25, 59.0, 100.0, 3719.9].map(seconds).join(", "), {
            "20.00 µs, 250.0 ms, 59.00 s, 1 min 40 s, 61 min 59 s"
        });
        assert_eq!(digits(f64::NAN), "NaN");
        assert_eq!([0, 1, 2].map(|n| plural(n, "thread")).join(", "), "0 threads, 1 thread, 2 threads");
    }
}
