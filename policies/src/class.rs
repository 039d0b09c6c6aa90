//! Storage classes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The storage classes of Alibaba OSS, by their exact names, warmest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Class {
    /// Online, no minimum size or duration.
    Standard,
    /// Infrequent access: online, read at a fee.
    #[serde(rename = "IA")]
    #[schemars(rename = "IA")]
    Ia,
    /// Readable after a restore of about a minute.
    Archive,
    /// Readable after a restore of hours.
    ColdArchive,
    /// Readable after a restore of up to two days.
    DeepColdArchive,
}

impl Class {
    /// All classes, warmest first.
    pub const ALL: [Class; 5] =
        [Class::Standard, Class::Ia, Class::Archive, Class::ColdArchive, Class::DeepColdArchive];

    /// The exact name, as OSS and the policy document spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Standard => "Standard",
            Class::Ia => "IA",
            Class::Archive => "Archive",
            Class::ColdArchive => "ColdArchive",
            Class::DeepColdArchive => "DeepColdArchive",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
