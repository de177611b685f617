//! Text from a language model, token by token.
use super::{
    Inputs, Tokenizer,
    cache::{Cache, Storage},
    check_vocabulary,
};
use crate::{
    data::mix,
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

/// How to go on.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most tokens to add.
    pub tokens: usize,
    /// 0: the likeliest token always. Otherwise tokens are drawn by `softmax(logits / temperature)`.
    pub temperature: f64,
    /// Of the draws.
    pub seed: u64,
    /// How the cache is kept, where the network has one.
    pub cache: Storage,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The prompt and what follows it.
    pub text: String,
    /// Tokens of the prompt, those that are special among them.
    pub prompt_tokens: usize,
    /// The tokens that were added.
    pub tokens: Vec<u32>,
    /// Whether the network ended the text.
    pub ended: bool,
    /// Time of the prompt.
    pub prompt_seconds: f64,
    /// Time of all tokens behind the first.
    pub token_seconds: f64,
    /// Bytes of the cache in the end; `None` where the network has none and reads the whole text for every token.
    pub cache_bytes: Option<usize>,
    /// How it is kept.
    pub cache: Option<Storage>,
    /// What ran the model.
    #[serde(flatten)]
    pub ran: Ran,
}

/// Goes on from `prompt`. `hear` is given the text piece by piece, the prompt first.
///
/// # Errors
/// When the network takes no text or answers no logits `[N, T, V]`; with the token before which it failed.
pub fn generate(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &Options,
    hear: &mut dyn FnMut(&str),
) -> Result<Report> {
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        return Err(Error::usage(format!("temperature {}", options.temperature)).cure("use 0 or more"));
    }
    let start = tokenizer.encode(prompt)?;
    if start.cut {
        return Err(Error::usage("the prompt is longer than the tokenizer allows").cure("give a shorter one"));
    }
    check_vocabulary(engine.graph(), std::iter::once(&start))?;
    let inputs = Inputs::new(engine.graph())?;
    let mut caches: Vec<Cache> = inputs.past().map(|p| Cache::new(p, options.cache)).collect();
    let mut ids = start.ids;
    let prompt_tokens = ids.len();
    let mut told = String::new();
    tell(tokenizer, &ids, &mut told, true, hear)?;
    let (mut before, mut ended) = (0, false);
    let mut times: Vec<Duration> = Vec::new();
    while ids.len() - prompt_tokens < options.tokens && !ended {
        quantize::check(options.cancel.as_deref())?;
        let place = || format!("token {}", ids.len());
        let clock = Instant::now();
        let mut past = caches.iter();
        let x = inputs.next(&ids[before..], before, |_| {
            past.next().map(Cache::tensor).ok_or_else(|| Error::internal("more pasts than caches"))
        })?;
        let y = engine.run(x).at(place)?;
        for (cache, of) in caches.iter_mut().zip(inputs.past()) {
            let present = y.get(of.output).ok_or_else(|| Error::internal("a past without output"))?;
            cache.extend(present, ids.len() - before).at(place)?;
        }
        // Without a cache the whole text is read again.
        let read = ids.len() - before;
        before = if caches.is_empty() { 0 } else { ids.len() };
        let next = choose(&y, read, options, ids.len()).at(place)?;
        times.push(clock.elapsed());
        ended = tokenizer.is_special(next);
        if !ended {
            ids.push(next);
            tell(tokenizer, &ids, &mut told, false, hear)?;
        }
    }
    tell(tokenizer, &ids, &mut told, true, hear)?;
    let prompt_seconds = times.first().map_or(0.0, Duration::as_secs_f64);
    Ok(Report {
        text: told,
        prompt_tokens,
        tokens: ids.split_off(prompt_tokens),
        ended,
        prompt_seconds,
        token_seconds: times.iter().skip(1).map(Duration::as_secs_f64).sum(),
        cache_bytes: (!caches.is_empty()).then(|| caches.iter().map(Cache::bytes).sum()),
        cache: (!caches.is_empty()).then_some(options.cache),
        ran: engine.ran(),
    })
}

/// Tells what tokens have added to the text. A character whose bytes are not all there waits for the rest, unless this is the end.
fn tell(tokenizer: &Tokenizer, ids: &[u32], told: &mut String, end: bool, hear: &mut dyn FnMut(&str)) -> Result<()> {
    let text = tokenizer.decode(ids)?;
    let whole = if end { &text[..] } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER) };
    if let Some(new) = whole.strip_prefix(&**told).filter(|new| !new.is_empty()) {
        hear(new);
        told.push_str(new);
    }
    Ok(())
}

/// The next token by the logits of the last one of `read`.
fn choose(y: &[Tensor], read: usize, options: &Options, place: usize) -> Result<u32> {
    let logits = y.first().ok_or_else(|| Error::usage("the network has no output"))?;
    let row = match *logits.shape() {
        [1, length, vocabulary] if length == read && vocabulary > 0 => {
            &logits.as_slice::<f32>()?[(length - 1) * vocabulary..]
        }
        _ => {
            return Err(Error::shape(format!("an answer of shape {:?} to {read} tokens", logits.shape()))
                .cure("a language model answers logits [N, T, V] first"));
        }
    };
    if row.iter().any(|x| x.is_nan()) {
        return Err(Error::value("a logit is NaN").cure("run the float network on this text: does it, too?"));
    }
    #[allow(clippy::cast_possible_truncation)]
    Ok(if options.temperature == 0.0 { likeliest(row) } else { draw(row, options, place) } as u32)
}

/// The first of the largest.
pub(super) fn likeliest(row: &[f32]) -> usize {
    let better = |best: usize, (i, x): (usize, &f32)| if *x > row[best] { i } else { best };
    row.iter().enumerate().fold(0, better)
}

/// Drawn by `softmax(row / temperature)`, with the number of the seed for this place.
fn draw(row: &[f32], options: &Options, place: usize) -> usize {
    let most = f64::from(row[likeliest(row)]);
    let weight = |x: &f32| libm::exp((f64::from(*x) - most) / options.temperature);
    let total: f64 = row.iter().map(weight).sum();
    #[allow(clippy::cast_precision_loss)]
    let mut left = (mix(options.seed, place as u64) >> 11) as f64 / (1u64 << 53) as f64 * total;
    for (i, x) in row.iter().enumerate() {
        left -= weight(x);
        if left < 0.0 {
            return i;
        }
    }
    likeliest(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distribution() {
        let row = [1f32.ln(), 3f32.ln(), f32::NEG_INFINITY, 1f32.ln()];
        let options = |seed, temperature| Options { tokens: 1, temperature, seed, cache: Storage::F32, cancel: None };
        let mut counts = [0usize; 4];
        for place in 0..10_000 {
            counts[draw(&row, &options(7, 1.0), place)] += 1;
        }
        // Five standard deviations.
        assert!(counts[2] == 0 && (counts[1] as f64 - 6000.0).abs() < 250.0, "{counts:?}");
        assert!((counts[0] as f64 - 2000.0).abs() < 200.0, "{counts:?}");
        // Hardly any warmth: the likeliest.
        assert!((0..100).all(|place| draw(&row, &options(1, 0.01), place) == 1));
        assert_eq!(likeliest(&[1.0, 2.0, 2.0]), 1);
    }
}
