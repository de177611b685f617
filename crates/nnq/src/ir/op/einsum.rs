//! The equations of Einsum.
use crate::error::{Error, Result};

/// An axis of an equation: a letter, or the `n`-th axis from the end under an ellipsis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Label {
    Letter(char),
    Hidden(usize),
}

/// What an equation says of operands whose ranks are known: NumPy's rules. Without `->` the result has the axes under the
/// ellipsis, then the letters that stand once, in alphabetical order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    /// The axes of each operand.
    pub operands: Vec<Vec<Label>>,
    /// The axes of the result.
    pub result: Vec<Label>,
}

/// The letters before and behind an ellipsis; without one the second is `None`.
fn term(text: &str) -> Result<(Vec<char>, Option<Vec<char>>)> {
    let letters = |t: &str| match t.chars().find(|c| !c.is_ascii_alphabetic()) {
        Some(c) => Err(Error::malformed(format!("'{c}' in the equation: axes are letters"))),
        None => Ok(t.chars().collect::<Vec<_>>()),
    };
    match text.split_once("...") {
        None => Ok((letters(text)?, None)),
        Some((before, behind)) => Ok((letters(before)?, Some(letters(behind)?))),
    }
}

impl Equation {
    /// Reads `text` for operands of these ranks.
    ///
    /// # Errors
    /// An equation that is none, or that has other ranks or another number of operands.
    pub fn new(text: &str, ranks: &[usize]) -> Result<Self> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (&*text, None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(Error::shape(format!(
                "the equation '{text}' has {} operands, the node {}",
                terms.len(),
                ranks.len()
            )));
        }
        let mut hidden = 0;
        let mut operands = Vec::with_capacity(ranks.len());
        for (term_text, &rank) in terms.iter().zip(ranks) {
            let (before, behind) = term(term_text)?;
            let named = before.len() + behind.as_ref().map_or(0, Vec::len);
            if named > rank || (behind.is_none() && named != rank) {
                return Err(Error::shape(format!(
                    "'{term_text}' of the equation '{text}' for an operand of rank {rank}"
                )));
            }
            let more = rank - named;
            hidden = hidden.max(more);
            let mut labels: Vec<Label> = before.into_iter().map(Label::Letter).collect();
            labels.extend((0..more).rev().map(Label::Hidden));
            labels.extend(behind.into_iter().flatten().map(Label::Letter));
            operands.push(labels);
        }
        let all: Vec<Label> = operands.iter().flatten().copied().collect();
        let under = || (0..hidden).rev().map(Label::Hidden);
        let result: Vec<Label> = match right {
            Some(right) => {
                let (before, behind) = term(right)?;
                let letters = |v: Vec<char>| v.into_iter().map(Label::Letter);
                let mut result: Vec<Label> = letters(before).collect();
                if let Some(behind) = behind {
                    result.extend(under());
                    result.extend(letters(behind));
                }
                result
            }
            None => {
                let once = |l: &&Label| matches!(l, Label::Letter(_)) && all.iter().filter(|m| m == l).count() == 1;
                let mut letters: Vec<char> = all
                    .iter()
                    .filter(once)
                    .filter_map(|l| if let Label::Letter(c) = l { Some(*c) } else { None })
                    .collect();
                letters.sort_unstable();
                under().chain(letters.into_iter().map(Label::Letter)).collect()
            }
        };
        for (i, label) in result.iter().enumerate() {
            if result[..i].contains(label) || !all.contains(label) {
                let why = if all.contains(label) { "twice" } else { "in no operand" };
                return Err(Error::malformed(format!("the result of the equation '{text}' has an axis {why}")));
            }
        }
        Ok(Self { operands, result })
    }
}
