//! The presets as text, for `plugins show vit` and the documentation.

use realign::registry::{PluginTable, inventory};

use super::architecture::Activation;
use super::config::{Settings, VitConfig};
use super::presets::{Preset, presets};

inventory::submit! { PluginTable { kind: "encoder", name: "vit", markdown: table } }

const PRESETS: &str = "\
| preset | row | width / depth / heads | patch | MLP | class token, registers | last norm | parameters | file |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
";
const METHODS: &str = "
| method | pictures | layouts | license | weights from |
| --- | --- | --- | --- | --- |
";

/// All presets, then what the sizes of each method share.
fn table() -> String {
    let known = presets().iter().filter_map(|preset| Some((preset, VitConfig::preset(&preset.name).settings().ok()?)));
    let rows: String = known.clone().map(|(preset, settings)| row(preset, &settings)).collect();
    let mut methods: Vec<String> = known.map(|(preset, settings)| method(preset, &settings)).collect();
    methods.dedup();
    [PRESETS, &rows, METHODS, &methods.concat()].concat()
}

fn row(preset: &Preset, Settings { architecture: a, .. }: &Settings) -> String {
    let rank = preset.rank.map(|rank| rank.to_string()).unwrap_or_default();
    let activation = match a.activation {
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::QuickGelu => "quick GELU",
        Activation::SwiGlu => "SwiGLU",
    };
    let [class_token, norm] = [a.class_token, a.norm].map(|is_there| if is_there { "yes" } else { "no" });
    format!(
        "| `{}` | {rank} | {} / {} / {} | {} | {activation} {} | {class_token}, {} | {norm} | {} | `{}` |\n",
        preset.name,
        a.hidden_size,
        a.depth,
        a.num_heads,
        a.patch_size,
        a.mlp_size,
        a.num_registers,
        preset.parameters,
        preset.file()
    )
}

fn method(preset: &Preset, Settings { preprocessing, .. }: &Settings) -> String {
    let license =
        if preset.is_gated { format!("{}, to be accepted first", preset.license) } else { preset.license.clone() };
    let host = preset.url.split('/').nth(2).unwrap_or_default();
    format!("| {} | {} | {} | {license} | {host} |\n", preset.title, preprocessing.describe(), preset.layouts)
}
