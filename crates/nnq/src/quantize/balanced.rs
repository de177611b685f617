//! What happens to the float network before it is calibrated: balancing, and measuring what that and the correction of biases want to know.
use super::{Drawn, Means, Progress, Samples, feed};
use crate::{
    data::Settings,
    error::{At, Error, Result},
    ir::{Graph, ValueId},
    quant::{
        balance, channels, expect, place,
        recipe::{BiasCorrection, Recipe},
    },
};
use std::sync::Arc;

/// Samples that run at once: few, so that their activations take little memory. Sums are in the order of the samples in any case.
const TOGETHER: usize = 8;

/// The network balanced as the recipe says (linear bottlenecks in another basis, equalized or smoothed, high biases absorbed), with what is known of its channels beside it; messages say
/// what was done and what was left alone.
///
/// # Errors
/// Names what is to be known and cannot be, and whatever a method answers.
pub fn balanced(
    graph: &Arc<Graph>,
    recipe: &Recipe,
    samples: Option<&Samples>,
    means: Means,
    progress: &mut Progress,
    messages: &mut Vec<String>,
) -> Result<Arc<Graph>> {
    recipe.check()?;
    let mut graph = graph.clone();
    if recipe.basis {
        let wanted = balance::wanted_for_basis(&graph);
        if samples.is_none() && !wanted.is_empty() {
            return Err(Error::usage("a basis is found by what channels have in common, and there are no samples")
                .cure("give --data, or leave out --basis"));
        }
        let mut moments = balance::Moments::new();
        on_samples(&graph, &wanted, recipe, (samples, means), progress, &mut |to| {
            moments = channels::second_moments(&graph, &wanted, means.threads, to)?;
            Ok(())
        })?;
        let balance::Based { graph: new, streams } = balance::change_basis(&graph, &moments)?;
        messages.push(match streams {
            0 => "basis: nothing to gain between products with nothing but sums between".into(),
            n => format!("{n} linear bottlenecks and streams of sums have another basis"),
        });
        graph = Arc::new(new);
    }
    if recipe.equalize {
        let balance::Equalized { graph: new, pairs, clips } = balance::equalize(&graph)?;
        messages.push(match pairs {
            0 => "equalization: no two layers follow each other with nothing but a ReLU or pooling between".into(),
            n => format!("equalization balanced {n} pairs of layers{}", opened(clips)),
        });
        graph = Arc::new(new);
    }
    if let Some(how) = recipe.smooth {
        let wanted = balance::unknown_to_smooth(&graph, how);
        if samples.is_none() && !wanted.is_empty() {
            return Err(Error::usage(
                "smoothing looks at the largest magnitude of each channel, and there are no samples",
            )
            .cure("give --data, or use --equalize, which needs none"));
        }
        graph = measure(&graph, &wanted, how.bits(), recipe, (samples, means), progress)?;
        let balance::Smoothed { graph: new, links, clips, bounds, factors, .. } = balance::smooth(&graph, how)?;
        if factors > 0 {
            messages.push(format!("smoothing multiplies {factors} activations before the products that read them"));
        }
        messages.push(match links {
            0 if factors > 0 => "smoothing found no activation whose layer could take the scales".into(),
            0 => "smoothing: no activation comes from a layer that can take a scale of each channel".into(),
            n if bounds > 0 => {
                format!(
                    "smoothing scaled the channels of {n} activations; {bounds} clips got another bound{}",
                    opened(clips)
                )
            }
            n => format!("smoothing scaled the channels of {n} activations{}", opened(clips)),
        });
        graph = Arc::new(new);
    }
    if recipe.absorb {
        if samples.is_some() {
            graph = measure(&graph, &balance::unknown_to_absorb(&graph), None, recipe, (samples, means), progress)?;
        }
        let a = balance::absorb(&graph)?;
        messages.push(absorbed(&a));
        graph = Arc::new(a.graph);
    }
    if recipe.correct_bias == BiasCorrection::Analytic && samples.is_some() {
        let products = place::place(&graph, &vec![place::Mode::Static; graph.node_count()], false).products;
        graph = measure(&graph, &expect::unknown(&graph, &products), None, recipe, (samples, means), progress)?;
    }
    Ok(graph)
}

fn opened(clips: usize) -> String {
    if clips == 0 { String::new() } else { format!("; {clips} clips between them became ReLU") }
}

fn absorbed(a: &balance::Absorbed) -> String {
    let mut text = format!("absorption moved the bias of {} channels of {} layers", a.channels, a.layers);
    for (n, why) in [
        (a.padded, "read by layers that pad with zeros"),
        (a.bent, "without a plain ReLU behind them (--equalize makes ReLU6 one)"),
        (a.unknown, "without batch normalisation or samples that tell their outputs"),
    ] {
        if n > 0 {
            text += &format!("; left alone: {n} {why}");
        }
    }
    text
}

fn measure(
    graph: &Arc<Graph>,
    values: &[ValueId],
    fit: Option<u8>,
    recipe: &Recipe,
    (samples, means): (Option<&Samples>, Means),
    progress: &mut Progress,
) -> Result<Arc<Graph>> {
    let mut out = graph.clone();
    on_samples(graph, values, recipe, (samples, means), progress, &mut |to| {
        out = channels::measure(graph, values, fit, means.threads, to)?;
        Ok(())
    })?;
    Ok(out)
}

/// Gives `see` the samples that calibration looks at, where there are samples and `values` to look at.
fn on_samples(
    graph: &Arc<Graph>,
    values: &[ValueId],
    recipe: &Recipe,
    (samples, means): (Option<&Samples>, Means),
    progress: &mut Progress,
    see: &mut dyn FnMut(&mut channels::Feed) -> Result<()>,
) -> Result<()> {
    let Some(samples) = samples.filter(|_| !values.is_empty()) else { return Ok(()) };
    let Drawn { indices: mut chosen, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples, recipe.seed);
    let batch = fixed.unwrap_or(TOGETHER).max(1);
    if fixed.is_some() {
        chosen.truncate(chosen.len() / batch * batch);
    }
    if chosen.is_empty() {
        return Err(Error::usage(format!("no batch of {batch} samples to measure channels on"))
            .cure("give more calibration samples or export the model with a free batch"));
    }
    let total = chosen.len() as u64;
    let settings = Settings { batch, threads: means.threads, skip_corrupt: false, cancel: means.cancel.cloned() };
    see(&mut |to| {
        let mut done = 0;
        for b in feed::batches(graph, samples, chosen.clone(), settings.clone())? {
            let b = b?;
            done += b.indices.len() as u64;
            to(b.inputs).at(|| feed::named(samples, &b.indices))?;
            progress("measuring channels", done, total);
        }
        Ok(())
    })
}
