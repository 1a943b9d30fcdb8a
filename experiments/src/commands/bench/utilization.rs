//! Which share of a device's speed the operations of a network take.

/// Peak of dense products in bf16, in operations per second, by a part of the device's name; the vendor's data sheets.
const PEAKS: [(&str, f64); 3] = [("H100 80GB HBM3", 989e12), ("H200", 989e12), ("A100", 312e12)];

/// Peak of dense products in bf16 of the device with this name, in operations per second.
pub fn bf16_peak(device_name: &str) -> Option<f64> {
    PEAKS.into_iter().find(|(name, _)| device_name.contains(name)).map(|(_, peak)| peak)
}

/// Operations per second in words, and their share of the device's peak where that is known.
pub fn describe(flops: f64, ms: f64, device_name: Option<&str>) -> String {
    let per_second = flops / (ms * 1e-3);
    let share =
        device_name.and_then(bf16_peak).map(|peak| format!(", {:.1} % of bf16's peak", 100.0 * per_second / peak));
    format!("{:.3} TFLOP/s{}", per_second / 1e12, share.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_a_share_of_the_peak_where_the_device_is_known() {
        assert_eq!(describe(98.9e12, 1000.0, Some("NVIDIA H200")), "98.900 TFLOP/s, 10.0 % of bf16's peak");
        assert_eq!(describe(1e12, 500.0, Some("NVIDIA H100 PCIe")), "2.000 TFLOP/s");
        assert_eq!(describe(1e9, 1000.0, None), "0.001 TFLOP/s");
        assert_eq!(bf16_peak("NVIDIA A100-SXM4-80GB"), Some(312e12));
    }
}
