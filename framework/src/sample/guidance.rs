//! The velocity that a solver follows: network, objective and classifier-free guidance together.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Tensor};

use crate::plugin::{Backbone, BackboneInput, Condition, Guidance, Objective, SampleRequest, Times};

/// Velocities of a network under guidance.
///
/// The solver's state is in f64; the network gets f32 and its answer goes back to f64.
/// Source: REPA `samplers.py`, with the null condition that the conditioner states instead of label 1000.
pub struct GuidedVelocity<'a> {
    backbone: &'a dyn Backbone,
    objective: &'a dyn Objective,
    guidance: Guidance,
    condition: Condition,
    /// Condition and null condition, one after the other; absent when guidance never acts.
    both: Option<Condition>,
}

impl<'a> GuidedVelocity<'a> {
    /// The velocity for a request.
    ///
    /// # Errors
    /// Noise, condition and null condition are not of one batch size, or the conditions are not of one kind.
    pub fn new(request: &SampleRequest<'a>) -> Result<Self> {
        let [batch, ..] = request.noise.dims();
        let (condition, null) = (request.condition.clone(), request.null.clone());
        ensure!(
            num_conditions(&condition) == batch && num_conditions(&null) == batch,
            "sampling: found `{batch}` noises, `{}` conditions and `{}` null conditions; all three must be equal",
            num_conditions(&condition),
            num_conditions(&null)
        );
        ensure!(
            std::mem::discriminant(&condition) == std::mem::discriminant(&null),
            "sampling: condition and null condition are of different kinds; one is labels and the other text"
        );
        let both = (request.guidance.scale > 1.0).then(|| condition.clone().concat(null));
        Ok(Self {
            backbone: request.backbone,
            objective: request.objective,
            guidance: request.guidance,
            condition,
            both,
        })
    }

    /// The velocity at `x` and time `t` in a step that starts at `t_cur`, which decides whether guidance acts.
    ///
    /// # Shapes
    /// * `x`, result: `[batch, channels, height, width]`, f64
    ///
    /// # Errors
    /// The network's prediction does not have the shape of its input.
    pub fn at(&self, x: Tensor<4>, t: f64, t_cur: f64) -> Result<Tensor<4>> {
        match &self.both {
            Some(both) if self.guidance.low <= t_cur && t_cur <= self.guidance.high => {
                let [batch, ..] = x.dims();
                let velocity = self.evaluate(Tensor::cat(vec![x.clone(), x], 0), t, both.clone())?;
                Ok(mix(velocity, batch, self.guidance.scale))
            }
            _ => self.evaluate(x, t, self.condition.clone()),
        }
    }

    fn evaluate(&self, x: Tensor<4>, t: f64, condition: Condition) -> Result<Tensor<4>> {
        let shape = x.dims();
        let input = x.clone().cast(DType::F32);
        let times = Times::at(Tensor::full([shape[0]], t, (&x.device(), DType::F32)));
        let prediction = self.backbone.forward(BackboneInput { x: input, times, condition, taps: &[] }).prediction;
        ensure!(
            prediction.dims() == shape,
            "sampling: the network returned `{:?}` for an input of `{shape:?}`; both must be equal",
            prediction.dims()
        );
        Ok(self.objective.velocity(prediction.cast(DType::F64), x, t))
    }
}

/// The network's prediction at `t`, or over the interval from `r` to `t`, in f32; with classifier-free guidance where
/// `is_guided`, for which it sees every sample twice.
///
/// # Shapes
/// * `x`, result: `[batch, channels, height, width]`
///
/// # Errors
/// The prediction does not have the shape of its input.
pub fn guided_prediction(
    request: &SampleRequest<'_>,
    x: Tensor<4>,
    t: f64,
    r: Option<f64>,
    is_guided: bool,
) -> Result<Tensor<4>> {
    let [batch, ..] = x.dims();
    let (x, condition) = if is_guided {
        (Tensor::cat(vec![x.clone(), x], 0), request.condition.clone().concat(request.null.clone()))
    } else {
        (x, request.condition.clone())
    };
    let shape = x.dims();
    let at = |time: f64| Tensor::full([shape[0]], time, &x.device());
    let times = Times { t: at(t), r: r.map(at) };
    let prediction = request.backbone.forward(BackboneInput { x, times, condition, taps: &[] }).prediction;
    ensure!(
        prediction.dims() == shape,
        "sampling: the network returned `{:?}` for an input of `{shape:?}`; both must be equal",
        prediction.dims()
    );
    Ok(if is_guided { mix(prediction, batch, request.guidance.scale) } else { prediction })
}

/// `unconditional + scale · (conditional − unconditional)` of both halves, the conditional one first.
fn mix(both: Tensor<4>, batch: usize, scale: f64) -> Tensor<4> {
    let conditional = both.clone().narrow(0, 0, batch);
    let unconditional = both.narrow(0, batch, batch);
    unconditional.clone() + (conditional - unconditional) * scale
}

fn num_conditions(condition: &Condition) -> usize {
    match condition {
        Condition::Labels(labels) => labels.dims()[0],
        Condition::Text(text) => text.dims()[0],
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::plugin::{BackboneOutput, Draws, ObjectiveInput, ObjectiveOutput, ProbabilityPath};
    use crate::streams::Streams;

    /// Predicts its label plus its time, whatever the picture.
    #[derive(Module, Debug)]
    struct LabelPlusTime {}

    impl Backbone for LabelPlusTime {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            assert_eq!(input.x.dtype(), DType::F32);
            let Condition::Labels(labels) = input.condition else { panic!("labels expected") };
            let [batch, ..] = input.x.dims();
            let value = (labels.float() + input.times.t).reshape([batch, 1, 1, 1]);
            BackboneOutput { prediction: input.x.zeros_like() + value, taps: vec![] }
        }
    }

    #[derive(Debug)]
    struct PredictsVelocity;

    impl Objective for PredictsVelocity {
        fn draw(&self, _: [usize; 4], _: &Streams, _: &Device) -> Draws {
            unreachable!("samplers draw nothing of the objective's")
        }
        fn loss(&self, _: &dyn Backbone, _: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
            unreachable!("samplers need no loss")
        }
        fn velocity(&self, prediction: Tensor<4>, x: Tensor<4>, _t: f64) -> Tensor<4> {
            assert_eq!((prediction.dtype(), x.dtype()), (DType::F64, DType::F64));
            prediction
        }
        fn path(&self) -> ProbabilityPath {
            ProbabilityPath::Linear
        }
    }

    fn velocities(guidance: Guidance, labels: &[i64], t: f64, t_cur: f64) -> Result<Vec<f64>> {
        let device = Device::flex();
        let request = SampleRequest {
            backbone: &LabelPlusTime {},
            objective: &PredictsVelocity,
            noise: Tensor::zeros([2, 1, 1, 1], &device),
            condition: Condition::labels(labels, &device),
            null: Condition::labels(&[10, 10], &device),
            guidance,
            step_noise: &|_| Tensor::zeros([2, 1, 1, 1], &Device::flex()),
        };
        let x = request.noise.clone().cast(DType::F64);
        Ok(GuidedVelocity::new(&request)?.at(x, t, t_cur)?.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn guidance_moves_away_from_the_null_condition() {
        let found = velocities(Guidance { scale: 1.5, low: 0.0, high: 1.0 }, &[3, 5], 0.25, 0.25).unwrap();
        assert_eq!(found, [10.25 + 1.5 * (3.0 - 10.0), 10.25 + 1.5 * (5.0 - 10.0)]);
    }

    #[test]
    fn guidance_acts_at_both_ends_of_its_interval_and_nowhere_else() {
        let guidance = Guidance { scale: 2.0, low: 0.25, high: 0.75 };
        for (t_cur, is_guided) in [(0.25, true), (0.75, true), (0.5, true), (0.2499, false), (0.7501, false)] {
            let found = velocities(guidance, &[3, 5], 0.5, t_cur).unwrap()[0];
            assert_eq!(found, if is_guided { -3.5 } else { 3.5 }, "{t_cur}");
        }
    }

    #[test]
    fn a_scale_of_one_or_less_is_no_guidance() {
        for scale in [0.0, 1.0] {
            assert_eq!(velocities(Guidance { scale, ..Guidance::NONE }, &[3, 5], 0.5, 0.5).unwrap(), [3.5, 5.5]);
        }
    }

    #[test]
    fn a_batch_of_other_size_is_refused() {
        let message = velocities(Guidance::NONE, &[3, 5, 6], 0.5, 0.5).unwrap_err().to_string();
        assert!(message.contains("`2` noises, `3` conditions"), "{message}");
    }
}
