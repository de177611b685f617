//! The explanation as text.
use super::{Explanation, Int8, Rounding, Steps, Stored};
use std::fmt;

/// Longer decimals are shortened in text.
const SHOWN: usize = 60;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", shorten(&self.text))?;
        if let Some(steps) = &self.steps {
            write!(f, "\n{steps}")?;
        }
        for stored in &self.formats {
            write!(f, "\n{stored}")?;
        }
        for int8 in &self.int8 {
            write!(f, "\n{int8}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "negative: sign bit 1" } else { "not negative: sign bit 0" };
        writeln!(f, "1. Sign: {sign}")?;
        writeln!(f, "2. Integer part {}: divide by 2, read the remainders upwards", shorten(&self.integer))?;
        for (n, half, rest) in &self.halvings {
            writeln!(f, "     {} / 2 = {} remainder {rest}", shorten(n), shorten(half))?;
        }
        writeln!(f, "   {}", shorten(&self.integer_bits))?;
        writeln!(f, "3. Fraction {}: double, read the integers downwards", shorten(&self.fraction))?;
        for (n, twice, one) in &self.doublings {
            writeln!(f, "     {} x 2 = {one} + {}", shorten(n), shorten(twice))?;
        }
        let more = if self.cut_off { "..." } else { "" };
        let point = if self.fraction_bits.is_empty() { "" } else { "." };
        writeln!(f, "   {}{more}", if self.fraction_bits.is_empty() { "nothing" } else { &self.fraction_bits })?;
        writeln!(f, "4. Together: {}{point}{}{more} in binary", shorten(&self.integer_bits), self.fraction_bits)?;
        match self.exponent {
            None => writeln!(f, "5. Zero has no leading one: all bits are 0 but the sign"),
            Some(e) => writeln!(f, "5. Normalised: 1.{} x 2^{e}", self.normalised),
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<9} {} {} {}  {}", self.format, self.sign, self.exponent, self.mantissa, self.hex)?;
        if let Some(power) = self.power {
            if self.subnormal {
                writeln!(f, "          subnormal: 0.mantissa x 2^{power}")?;
            } else {
                writeln!(f, "          exponent {power} + bias {} = {}", self.bias, power + self.bias)?;
            }
        }
        let how = match self.rounding {
            None => "",
            Some(Rounding::Exact) => ", exact",
            Some(Rounding::Down) => ", rounded towards zero (the rest is less than half of the last bit)",
            Some(Rounding::Up) => ", rounded away from zero (the rest is more than half of the last bit)",
            Some(Rounding::TieDown) => ", a tie, kept (the last bit is even)",
            Some(Rounding::TieUp) => ", a tie, rounded away from zero (to an even last bit)",
            Some(Rounding::Overflow) => ", overflow",
            Some(Rounding::Saturated) => ", overflow: the largest number is stored",
        };
        if self.decimal.len() > SHOWN {
            writeln!(f, "          holds about {:e}{how}", self.value)?;
        } else {
            writeln!(f, "          holds {}{how}", self.decimal)?;
        }
        if !matches!(self.rounding, None | Some(Rounding::Exact)) {
            writeln!(f, "          error {:e}", self.error)?;
        }
        Ok(())
    }
}

impl fmt::Display for Int8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<13} range [{}, {}]: scale {}, zero point {}",
            self.kind, self.range.0, self.range.1, self.scale, self.zero_point
        )?;
        let clamped = if self.clamped { ", clamped to the grid" } else { "" };
        writeln!(f, "              code {}{clamped}, holds {}, error {:e}", self.code, self.value, self.error)
    }
}

/// Keeps the start of what is too long for a line.
fn shorten(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start}... ({} characters)", text.chars().count())
}
