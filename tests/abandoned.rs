//! A forward pass that fails leaves no memory behind.

use std::process::Command;

use burn::tensor::Tensor;
use realign::ops::{self, Recorder};

use super::devices;

/// Tells this test's own process to measure.
const MEASURES: &str = "REALIGN_TEST_ABANDONED";

/// burn keeps what a backward pass would need until the next one: in a trial of a smaller batch it would still be there.
/// Measured in a process of its own, because all tensors of a process count.
#[test]
fn a_pass_whose_memory_ends_half_way_gives_back_what_it_kept() {
    let Some(device) = devices().into_iter().find(ops::on_libtorch) else {
        return realign_tests::say_skipped("built without libtorch");
    };
    if std::env::var_os(MEASURES).is_none() {
        let test = "abandoned::a_pass_whose_memory_ends_half_way_gives_back_what_it_kept";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([test, "--exact", "--nocapture"]).env(MEASURES, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        return assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    let recorder = Recorder::open(&device).unwrap();
    let alive = || recorder.memory().unwrap()[0];
    let mut at_the_end = 0;
    let failed = ops::guard(|| {
        let x = Tensor::<2>::ones([512, 1024], &device.clone().autodiff()).require_grad();
        let y = x.clone().exp().matmul(x.transpose()).exp();
        at_the_end = alive();
        Ok(y + Tensor::<2>::zeros([1 << 30, 1 << 20], &device.clone().autodiff()))
    });
    assert!(failed.unwrap_err().is::<ops::OutOfMemory>());
    assert!(at_the_end > 4 << 20, "{at_the_end}");
    assert_eq!(alive(), 0);
}
