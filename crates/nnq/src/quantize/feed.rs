//! Samples as networks take them: pictures in their order, texts of the same length together.
use super::{Samples, fixed_batch};
use crate::{
    data::{Loader, Settings, Tokens},
    error::{At, Error, Result},
    ir::{Graph, Tensor},
    text::{self, Inputs},
};

/// Samples that run at once.
pub struct Batch {
    /// In the order of the network's inputs.
    pub inputs: Vec<Tensor>,
    /// The samples' indices in the data set.
    pub indices: Vec<usize>,
}

/// Batches of samples, one after the other.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// The samples `indices` as inputs of `graph`, at most `settings.batch` at once. Nothing is padded: texts of other lengths are in other batches, short ones first.
///
/// # Errors
/// When samples and network do not go together; an item is an error where a sample cannot be read, or somebody asked to stop.
pub fn batches<'a>(
    graph: &Graph,
    samples: &'a Samples,
    indices: Vec<usize>,
    settings: Settings,
) -> Result<Batches<'a>> {
    let dataset = &samples.dataset;
    if !dataset.is_text() {
        let loader = Loader::new(dataset.clone(), samples.preprocess.clone(), indices, settings)?;
        return Ok(Box::new(loader.map(|b| b.map(|b| Batch { inputs: vec![b.input], indices: b.indices }))));
    }
    let inputs = Inputs::new(graph)?;
    if fixed_batch(graph).is_some_and(|n| n > 1) {
        return Err(Error::unsupported("the model runs several samples at once, and texts have different lengths")
            .cure("export the model with a free batch"));
    }
    let tokens: Vec<(usize, &Tokens)> = indices
        .iter()
        .map(|&i| Ok((i, dataset.tokens(i).ok_or_else(|| Error::internal(format!("sample {i} is no text")))?)))
        .collect::<Result<_>>()?;
    text::check_vocabulary(graph, tokens.iter().map(|t| t.1))?;
    let batch = fixed_batch(graph).unwrap_or(settings.batch);
    let all = text::batches(tokens.into_iter(), batch);
    let cancel = settings.cancel;
    Ok(Box::new(all.into_iter().map(move |indices| {
        super::check(cancel.as_deref())?;
        let some: Vec<&Tokens> = indices.iter().filter_map(|&i| dataset.tokens(i)).collect();
        Ok(Batch { inputs: inputs.batch(&some)?, indices })
    })))
}

/// What can be known before samples run: they suit the network's inputs.
///
/// # Errors
/// Names the input that they do not suit, and what does.
pub fn suits(graph: &Graph, samples: &Samples) -> Result<()> {
    if samples.dataset.is_text() {
        return Inputs::new(graph).map(drop);
    }
    let &[input] = &graph.inputs[..] else {
        return Err(Error::unsupported(format!("the model has {} inputs; data has one", graph.inputs.len()))
            .cure("use a model of one input, or of text: --tokenizer"));
    };
    let value = graph.value(input);
    let Some(shape) = &value.shape else { return Ok(()) };
    let first = samples.dataset.first(&samples.preprocess)?;
    samples.preprocess.fits(first.shape(), shape).at(|| format!("input '{}'", value.name))
}

/// What runs in a batch, for messages.
pub fn named(samples: &Samples, indices: &[usize]) -> String {
    match indices {
        [] => String::new(),
        [one] => samples.dataset.name(*one),
        [first, more @ ..] => format!("{} and {} more", samples.dataset.name(*first), more.len()),
    }
}
