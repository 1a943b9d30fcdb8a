//! The kinds of plugin that `new` can write.

/// What `new` needs to know of a kind.
#[derive(Debug)]
pub(super) struct Kind {
    /// Name in the registry and on the command line.
    pub name: &'static str,
    /// Folder below `plugins/src`.
    pub folder: &'static str,
    /// Key of a recipe that names a plugin of this kind.
    pub key: &'static str,
    /// First line of the folder's module list.
    pub heading: &'static str,
    /// The file, for a plugin called `my_idea`.
    pub template: &'static str,
}

impl Kind {
    /// The kind in prose: `alignment loss`.
    pub(super) fn words(&self) -> String {
        self.name.replace('_', " ")
    }
}

/// All kinds.
pub(super) const KINDS: [Kind; 12] = [
    Kind {
        name: "projector",
        folder: "projectors",
        key: "alignment.0.projector.type",
        heading: "//! Projectors: trained maps from backbone tokens to an encoder's feature space.",
        template: include_str!("../../../templates/projector.rs"),
    },
    Kind {
        name: "normalizer",
        folder: "normalizers",
        key: "alignment.0.normalizer.type",
        heading: "//! Normalizers: what happens to encoder features before they become a target.",
        template: include_str!("../../../templates/normalizer.rs"),
    },
    Kind {
        name: "alignment_loss",
        folder: "alignment_losses",
        key: "alignment.0.loss.type",
        heading: "//! Alignment losses: distance between projected tokens and encoder features.",
        template: include_str!("../../../templates/alignment_loss.rs"),
    },
    Kind {
        name: "sampler",
        folder: "samplers",
        key: "sample.sampler.type",
        heading: "//! Samplers: from noise to samples.",
        template: include_str!("../../../templates/sampler.rs"),
    },
    Kind {
        name: "objective",
        folder: "objectives",
        key: "objective.type",
        heading: "//! Objectives: what the backbone is trained to predict.",
        template: include_str!("../../../templates/objective.rs"),
    },
    Kind {
        name: "backbone",
        folder: "backbones",
        key: "backbone.type",
        heading: "//! Backbones: the networks that are trained.",
        template: include_str!("../../../templates/backbone.rs"),
    },
    Kind {
        name: "encoder",
        folder: "encoders",
        key: "alignment.0.encoders.0.type",
        heading: "//! Encoders: frozen networks whose features are the target of alignment.",
        template: include_str!("../../../templates/encoder.rs"),
    },
    Kind {
        name: "feature_network",
        folder: "feature_networks",
        key: "evaluation.features.0.type",
        heading: "//! Feature networks, whose features evaluation compares.",
        template: include_str!("../../../templates/feature_network.rs"),
    },
    Kind {
        name: "dataset",
        folder: "datasets",
        key: "data.type",
        heading: "//! Data sets.",
        template: include_str!("../../../templates/dataset.rs"),
    },
    Kind {
        name: "autoencoder",
        folder: "autoencoders",
        key: "autoencoder.type",
        heading: "//! Autoencoders: from pictures to samples and back.",
        template: include_str!("../../../templates/autoencoder.rs"),
    },
    Kind {
        name: "conditioner",
        folder: "conditioners",
        key: "conditioner.type",
        heading: "//! Conditioners: from labels or captions to a network's condition.",
        template: include_str!("../../../templates/conditioner.rs"),
    },
    Kind {
        name: "program",
        folder: "programs",
        key: "program.type",
        heading: "//! Training programs: what is trained beside or instead of a diffusion model.",
        template: include_str!("../../../templates/program.rs"),
    },
];
