//! How well a network foretells the next token of texts.
use super::{Document, Inputs, Tokenizer, Tokens, check_vocabulary};
use crate::{
    engine::{Engine, Ran},
    error::{At, Error, Result},
    ir::Tensor,
    quantize,
};
use serde::Serialize;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// How to measure.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only the first so many texts.
    pub limit: Option<usize>,
    /// The most tokens of a text; what is longer is cut.
    pub length: Option<usize>,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// How well tokens are foretold.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Texts.
    pub texts: usize,
    /// Tokens that were foretold: all but the first of each text.
    pub tokens: u64,
    /// Texts that were longer than allowed.
    pub cut: usize,
    /// The mean of `-ln p` over tokens, `p` the probability that the network gave the token that came.
    pub nats_per_token: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// Share of tokens that were the likeliest.
    pub top1: f64,
    /// Wall-clock time of everything.
    pub seconds: f64,
    /// Wall-clock time inside the engine.
    pub engine_seconds: f64,
    /// What ran the model.
    #[serde(flatten)]
    pub ran: Ran,
}

/// Sums over tokens.
#[derive(Default)]
struct Sums {
    tokens: u64,
    nats: f64,
    right: u64,
}

/// Runs each text and compares the network's logits `[N, T, V]` for each token with the token that comes next. `progress(done, of)` counts texts.
///
/// # Errors
/// When the network takes no text or answers no logits, with the text that failed; when no text has two tokens.
pub fn measure(
    engine: &mut Engine,
    texts: &[Document],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let start = Instant::now();
    let texts = &texts[..options.limit.map_or(texts.len(), |n| n.min(texts.len()))];
    let mut cut = 0;
    let mut encode = |text: &Document| {
        let mut tokens = tokenizer.encode(&text.text)?;
        let most = options.length.unwrap_or(usize::MAX).max(2);
        cut += usize::from(tokens.cut || tokens.ids.len() > most);
        tokens.ids.truncate(most);
        tokens.types.truncate(most);
        Ok(tokens)
    };
    let tokens = texts.iter().map(&mut encode).collect::<Result<Vec<Tokens>>>()?;
    check_vocabulary(engine.graph(), tokens.iter())?;
    let inputs = Inputs::new(engine.graph())?;
    let mut sums = Sums::default();
    let mut inside = Duration::ZERO;
    for (i, (text, one)) in texts.iter().zip(&tokens).enumerate() {
        quantize::check(options.cancel.as_deref())?;
        let place = || format!("'{}'", super::start_of(&text.text));
        let x = inputs.batch(&[one])?;
        let clock = Instant::now();
        let y = engine.run(x).at(place)?;
        inside += clock.elapsed();
        let logits = y.into_iter().next().ok_or_else(|| Error::usage("the network has no output"))?;
        add(&mut sums, &logits, &one.ids).at(place)?;
        progress(i as u64 + 1, texts.len() as u64);
    }
    if sums.tokens == 0 {
        return Err(Error::usage("no text has two tokens").cure("give longer texts"));
    }
    #[allow(clippy::cast_precision_loss)]
    let all = sums.tokens as f64;
    Ok(Report {
        texts: texts.len(),
        tokens: sums.tokens,
        cut,
        nats_per_token: sums.nats / all,
        perplexity: libm::exp(sums.nats / all),
        #[allow(clippy::cast_precision_loss)]
        top1: sums.right as f64 / all,
        seconds: start.elapsed().as_secs_f64(),
        engine_seconds: inside.as_secs_f64(),
        ran: engine.ran(),
    })
}

/// Adds what logits `[1, T, V]` say of the tokens behind the first.
fn add(sums: &mut Sums, logits: &Tensor, ids: &[u32]) -> Result<()> {
    let &[1, length, vocabulary] = logits.shape() else { return Err(shape(logits, ids.len())) };
    if length != ids.len() || vocabulary == 0 {
        return Err(shape(logits, ids.len()));
    }
    for (row, &next) in logits.as_slice::<f32>()?.chunks(vocabulary).zip(&ids[1..]) {
        let Some(&of_next) = row.get(next as usize) else {
            return Err(Error::usage(format!("token {next}, and logits of {vocabulary} tokens"))
                .cure("give the tokenizer that belongs to the model"));
        };
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|&x| libm::exp(f64::from(x) - f64::from(most))).sum();
        let nats = libm::log(total) + f64::from(most) - f64::from(of_next);
        if !nats.is_finite() {
            return Err(Error::value(format!("the logit of token {next} is {of_next}, the largest {most}"))
                .cure("run the float network on this text: does it, too?"));
        }
        sums.nats += nats;
        sums.tokens += 1;
        sums.right += u64::from(super::generate::likeliest(row) == next as usize);
    }
    Ok(())
}

fn shape(logits: &Tensor, tokens: usize) -> Error {
    Error::shape(format!("an answer of shape {:?} to {tokens} tokens", logits.shape()))
        .cure("a language model answers logits [N, T, V] first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_by_hand() {
        let mut sums = Sums::default();
        // Both tokens alike; then 3 : 1 for the wrong one.
        let ln3 = 3f32.ln();
        let logits = Tensor::of(&[1, 3, 2], vec![5.0f32, 5.0, ln3, 0.0, 9.0, 9.0]);
        add(&mut sums, &logits, &[0, 0, 1]).unwrap();
        assert_eq!((sums.tokens, sums.right), (2, 1));
        assert!((sums.nats - (2f64.ln() + 4f64.ln())).abs() < 1e-6, "{}", sums.nats);
        assert!(add(&mut sums, &logits, &[0, 2, 1]).unwrap_err().to_string().contains("token 2"));
        assert!(add(&mut sums, &logits, &[0, 1]).unwrap_err().to_string().contains("2 tokens"));
        let broken = Tensor::of(&[1, 2, 2], vec![f32::NAN; 4]);
        assert!(add(&mut sums, &broken, &[0, 1]).is_err());
    }
}
