//! The sections `accounts` and `users`: who may sign requests besides the root keys in `s3.access_keys`.

use crate::server::{AccessKey, Secret};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An account: an owner of buckets and objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountSection {
    /// The canonical id of the owner: 64 hexadecimal digits. Default: one that follows from the account's name.
    pub id: Option<String>,
    /// What listings show beside the id. Default: the account's name.
    pub display_name: Option<String>,
    /// The e-mail address, by which grants may name the account.
    pub email: Option<String>,
    /// Root keys: they may do everything in the account.
    pub access_keys: Vec<AccessKey>,
    /// Users by name.
    pub users: BTreeMap<String, UserSection>,
}

/// A user of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserSection {
    /// Its keys.
    pub access_keys: Vec<AccessKey>,
    /// What it may do; without any, what bucket policies and ACLs grant it.
    pub policies: Vec<PolicySource>,
}

/// A policy: one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySource {
    /// One that is built in.
    pub canned: Option<Canned>,
    /// A file with a document.
    pub file: Option<PathBuf>,
    /// The document itself.
    pub document: Option<serde_json::Value>,
}

/// Policies that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Canned {
    /// Reads and lists everything.
    ReadOnly,
    /// Does everything with buckets and objects.
    ReadWrite,
    /// Uploads, and neither reads nor lists.
    WriteOnly,
}

impl Canned {
    /// The policy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "readonly",
            Self::ReadWrite => "readwrite",
            Self::WriteOnly => "writeonly",
        }
    }

    /// The document.
    pub fn document(self) -> String {
        let actions: &[&str] = match self {
            Self::ReadOnly => &["s3:Get*", "s3:List*"],
            Self::ReadWrite => &["s3:*"],
            Self::WriteOnly => &["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
        };
        let statement = serde_json::json!({ "Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::*" });
        serde_json::json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
    }
}

/// What concerns all users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsersSection {
    /// Seals the secrets in the journal, and session tokens: 64 hexadecimal digits; several, one a line, of which the first seals and all
    /// open. Default: the file `seal-key` in the data directory, made when it is not there.
    pub seal_key: Option<Secret>,
}
