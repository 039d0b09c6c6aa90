//! What is set for a bucket besides its policy and its access control list: who owns the objects in it, and whether the public may
//! be let in at all.

use serde::{Deserialize, Serialize};

/// Who owns objects that other accounts write, and whether access control lists count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// The bucket's owner owns every object; access control lists are off.
    #[default]
    BucketOwnerEnforced,
    /// The bucket's owner owns what is written with `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// The writer owns it.
    ObjectWriter,
}

/// How the bytes of a bucket say that its ownership controls were deleted: then the writer owns, and nothing is shown.
const DELETED: &str = "none";

impl Ownership {
    const ALL: [(Self, &'static str); 3] = [
        (Self::BucketOwnerEnforced, "BucketOwnerEnforced"),
        (Self::BucketOwnerPreferred, "BucketOwnerPreferred"),
        (Self::ObjectWriter, "ObjectWriter"),
    ];

    /// S3's name.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }

    /// The one that S3 calls `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(one, _)| one)
    }

    /// Whether access control lists count.
    pub fn has_acls(self) -> bool {
        self != Self::BucketOwnerEnforced
    }
}

/// The ownership controls of a bucket, as they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnershipControls {
    /// What counts.
    pub ownership: Ownership,
    /// Whether they were deleted, and are not shown.
    pub deleted: bool,
}

impl OwnershipControls {
    /// Those of a bucket: a bucket of before there were any has all objects from one owner.
    pub fn read(kept: Option<&[u8]>) -> Option<Self> {
        let Some(kept) = kept else {
            return Some(Self { ownership: Ownership::BucketOwnerEnforced, deleted: false });
        };
        match std::str::from_utf8(kept).ok()? {
            DELETED => Some(Self { ownership: Ownership::ObjectWriter, deleted: true }),
            name => Ownership::by_name(name).map(|ownership| Self { ownership, deleted: false }),
        }
    }

    /// The bytes to keep; `None` when the controls are deleted.
    pub fn bytes(ownership: Option<Ownership>) -> Vec<u8> {
        ownership.map_or(DELETED, Ownership::name).as_bytes().to_vec()
    }
}

/// Whether the public may be let in at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PublicAccessBlock {
    /// Access control lists that let in the public are refused when they are put.
    pub block_public_acls: bool,
    /// Grants to the public are passed over.
    pub ignore_public_acls: bool,
    /// Policies that let in the public are refused when they are put.
    pub block_public_policy: bool,
    /// Of a bucket with a public policy, only the owner's account gets what the policy allows.
    pub restrict_public_buckets: bool,
}

impl PublicAccessBlock {
    /// That of a bucket; nothing is blocked where nothing is set.
    pub fn read(kept: Option<&[u8]>) -> Option<Self> {
        kept.map_or(Some(Self::default()), |kept| serde_json::from_slice(kept).ok())
    }

    /// The bytes to keep.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ownership_controls_are_kept_by_name() {
        for (ownership, name) in Ownership::ALL {
            let bytes = OwnershipControls::bytes(Some(ownership));
            assert_eq!(bytes, name.as_bytes());
            assert_eq!(OwnershipControls::read(Some(&bytes)), Some(OwnershipControls { ownership, deleted: false }));
        }
        let deleted = OwnershipControls::read(Some(&OwnershipControls::bytes(None))).unwrap();
        assert_eq!(deleted, OwnershipControls { ownership: Ownership::ObjectWriter, deleted: true });
        assert!(!OwnershipControls::read(None).unwrap().ownership.has_acls());
        assert_eq!(OwnershipControls::read(Some(b"Nobody")), None);
    }

    #[test]
    fn a_public_access_block_is_kept_as_json() {
        let block = PublicAccessBlock { ignore_public_acls: true, ..PublicAccessBlock::default() };
        let kept = br#"{"BlockPublicAcls":false,"IgnorePublicAcls":true,"BlockPublicPolicy":false,"RestrictPublicBuckets":false}"#;
        assert_eq!(block.bytes(), kept);
        assert_eq!(PublicAccessBlock::read(Some(kept)), Some(block));
        assert_eq!(PublicAccessBlock::read(None), Some(PublicAccessBlock::default()));
        assert_eq!(PublicAccessBlock::read(Some(b"{}")), None);
    }
}
