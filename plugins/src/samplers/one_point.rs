//! A network whose velocity is exact for data of one point per class, for the samplers' tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::plugin::{
    Backbone, BackboneInput, BackboneOutput, Condition, Draws, Objective, ObjectiveInput, ObjectiveOutput,
    ProbabilityPath,
};
use realign::streams::Streams;

/// The point of class 0; each further class lies one higher.
pub const POINT: f32 = 0.25;

/// Velocity `(x − x*)/t` on the linear path.
#[derive(Module, Debug, Default)]
pub struct OnePoint {
    returns_nan: bool,
    #[module(skip)]
    calls: Arc<AtomicUsize>,
}

impl OnePoint {
    /// A network that answers with NaN.
    pub fn diverged() -> Self {
        Self { returns_nan: true, ..Default::default() }
    }

    /// Evaluations so far.
    pub fn num_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Backbone for OnePoint {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let [batch, ..] = input.x.dims();
        let Condition::Labels(labels) = input.condition else { unreachable!("the tests give labels") };
        let point = (labels.float() + POINT).reshape([batch, 1, 1, 1]);
        let prediction = (input.x - point) / input.times.t.reshape([batch, 1, 1, 1]);
        BackboneOutput { prediction: if self.returns_nan { prediction * f32::NAN } else { prediction }, taps: vec![] }
    }
}

/// Predictions are velocities of the linear path.
#[derive(Debug)]
pub struct VelocityObjective;

impl Objective for VelocityObjective {
    fn draw(&self, _: [usize; 4], _: &Streams, _: &Device) -> Draws {
        unreachable!("samplers draw nothing of the objective's")
    }
    fn loss(&self, _: &dyn Backbone, _: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
        unreachable!("samplers need no loss")
    }
    fn velocity(&self, prediction: Tensor<4>, _x: Tensor<4>, _t: f64) -> Tensor<4> {
        prediction
    }
    fn path(&self) -> ProbabilityPath {
        ProbabilityPath::Linear
    }
}
