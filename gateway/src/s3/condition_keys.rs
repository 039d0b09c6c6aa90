//! What a request says under the condition keys of policies.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::S3Error;
use s3s::dto::CopySource;
use std::cell::Cell;
use std::net::IpAddr;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::ObjectHandle;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::authority::{Look, Place};
use super::copy::named_source;
use super::tagging;
use crate::auth::identity::{Account, Caller};
use crate::auth::policy::{Context, Key};
use crate::server::request::{Signed, TlsVersion};

/// A request as policies see it.
pub(crate) struct Asking<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a str,
    /// The address that the connection comes from.
    pub(crate) peer: Option<IpAddr>,
    /// The version of TLS that it came over; none without TLS.
    pub(crate) tls: Option<TlsVersion>,
    /// How it was signed, where what its headers say of that is not what the sender said.
    pub(crate) signed: Option<Signed>,
    pub(crate) now: Timestamp,
    /// What its body says, once that was read.
    pub(crate) content: Option<Content>,
}

/// What the body of a request says that policies ask for.
pub(crate) enum Content {
    /// Those of PutObjectTagging.
    Tags(Vec<(String, String)>),
    /// That of CreateBucket.
    Location(String),
}

impl Asking<'_> {
    fn header(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let lines: Vec<_> = lines.collect();
        (!lines.is_empty()).then(|| lines.join(","))
    }

    /// The value of a parameter. Names are decoded, too: the operation takes `%70refix` for `prefix`.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(known, _)| *known == name || (known.contains('%') && decoded(known) == name))?;
        Some(decoded(value))
    }

    /// How it was signed, and with what.
    fn signature(&self) -> Option<Signed> {
        // In the order in which they are looked for: what else a sender puts beside it is not what was verified.
        if self.signed.is_some() {
            return self.signed;
        }
        let authorization = self.headers.get(http::header::AUTHORIZATION);
        if self.parameter("X-Amz-Signature").is_some() {
            return Some(("REST-QUERY-STRING", "AWS4-HMAC-SHA256"));
        }
        authorization.map(|_| ("REST-HEADER", "AWS4-HMAC-SHA256"))
    }

    fn time(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(i64::try_from(self.now.seconds()).ok()?).ok()
    }

    /// Milliseconds since a presigned URL was signed.
    fn signature_age(&self) -> Option<String> {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let signed = PrimitiveDateTime::parse(&self.parameter("X-Amz-Date")?, format).ok()?.assume_utc();
        let age = self.time()? - signed;
        Some(age.whole_milliseconds().max(0).to_string())
    }

    /// What is said about the request as such, whatever it is about.
    fn value(&self, key: &Key) -> Option<String> {
        let identity = self.caller.identity();
        match key.name() {
            "aws:sourceip" => self.peer.map(|peer| peer.to_canonical().to_string()),
            "aws:securetransport" => Some(self.tls.is_some().to_string()),
            "s3:tlsversion" => self.tls.map(|version| version.number().to_owned()),
            "s3:locationconstraint" => match &self.content {
                Some(Content::Location(region)) => Some(region.clone()),
                _ => None,
            },
            "aws:currenttime" => self.time()?.format(&Rfc3339).ok(),
            "aws:epochtime" => Some(self.now.seconds().to_string()),
            "aws:useragent" => self.header("user-agent"),
            "aws:referer" => self.header("referer"),
            "aws:username" => identity?.user.clone(),
            "aws:userid" => Some(identity?.user_id()),
            "aws:principalarn" => Some(identity?.arn()),
            "aws:principalaccount" => Some(identity?.account.number()),
            "aws:principaltype" => Some(match identity {
                None => "Anonymous".into(),
                Some(identity) if identity.user.is_none() => "Account".into(),
                Some(_) => "User".into(),
            }),
            "s3:authtype" => self.signature().map(|(kind, _)| kind.to_owned()),
            "s3:signatureversion" => self.signature().map(|(_, version)| version.to_owned()),
            "s3:signatureage" => self.signature_age(),
            "s3:prefix" => self.parameter("prefix"),
            "s3:delimiter" => self.parameter("delimiter"),
            "s3:max-keys" => self.parameter("max-keys"),
            "s3:if-match" => self.header("if-match"),
            "s3:if-none-match" => self.header("if-none-match"),
            "s3:object-lock-mode" => self.header("x-amz-object-lock-mode"),
            "s3:object-lock-legal-hold" => self.header("x-amz-object-lock-legal-hold"),
            "s3:object-lock-retain-until-date" => self.header("x-amz-object-lock-retain-until-date"),
            "s3:object-lock-remaining-retention-days" => self.remaining_days(),
            "s3:x-amz-copy-source" => self.copy_source(),
            name => self.header(name.strip_prefix("s3:").filter(|header| header.starts_with("x-amz-"))?),
        }
    }

    /// `bucket/key`, as the copy reads it.
    fn copy_source(&self) -> Option<String> {
        match named_source(self.headers)? {
            CopySource::Bucket { bucket, key, .. } => Some(format!("{bucket}/{key}")),
            // The operation itself refuses it.
            _ => None,
        }
    }

    fn remaining_days(&self) -> Option<String> {
        let until = OffsetDateTime::parse(&self.header("x-amz-object-lock-retain-until-date")?, &Rfc3339).ok()?;
        Some((until - self.time()?).whole_days().to_string())
    }

    /// The tags that the request brings.
    fn request_tags(&self) -> Vec<(String, String)> {
        if let Some(Content::Tags(tags)) = &self.content {
            return tags.clone();
        }
        self.header("x-amz-tagging").and_then(|header| tagging::of_header(&header).ok()).unwrap_or_default()
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// A request, with what it asks for.
pub(crate) struct AskingFor<'a> {
    pub(crate) asking: &'a Asking<'a>,
    /// The account that owns the bucket; none where there is no bucket.
    pub(crate) bucket_owner: Option<&'a str>,
    /// None where there is nothing to look at.
    pub(crate) look: Option<&'a Look<'a>>,
    /// Why something could not be looked up: then nothing may be decided.
    pub(crate) failed: Cell<Option<S3Error>>,
}

impl AskingFor<'_> {
    /// The tags of the object; none of one that does not exist.
    fn object_tags(&self) -> Vec<(String, String)> {
        let tags = |object: Option<&ObjectHandle>| object.map(|object| object.info().attributes.tags.clone());
        match self.look.map(Look::object).transpose() {
            Ok(found) => tags(found.flatten()).unwrap_or_default(),
            Err(error) => {
                self.failed.set(Some(error));
                Vec::new()
            }
        }
    }
}

impl Context for AskingFor<'_> {
    fn values(&self, key: &Key) -> Option<Vec<String>> {
        let place = self.look.map_or_else(Place::default, |look| look.place);
        let found = |tags: Vec<(String, String)>| {
            let part = key.part()?;
            tags.into_iter().find(|(name, _)| name == part).map(|(_, value)| vec![value])
        };
        match key.name() {
            "s3:existingobjecttag" => found(self.object_tags()),
            "s3:requestobjecttag" => found(self.asking.request_tags()),
            "s3:requestobjecttagkeys" => {
                let keys: Vec<_> = self.asking.request_tags().into_iter().map(|(name, _)| name).collect();
                (!keys.is_empty()).then_some(keys)
            }
            "s3:resourceaccount" | "aws:resourceaccount" => {
                let owner = Account { id: self.bucket_owner?.to_owned(), display_name: String::new(), email: None };
                Some(vec![owner.number()])
            }
            "s3:prefix" if place.listed.is_some() => place.listed.map(|key| vec![key.to_owned()]),
            // Of a deletion of many and of a copy's source it is not in the query.
            "s3:versionid" => place.version.map(|version| vec![version.to_owned()]),
            _ => self.asking.value(key).map(|value| vec![value]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::Identity;
    use std::sync::Arc;

    #[test]
    fn a_request_says_what_policies_ask_for() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("user-agent", "tool/1"),
            ("referer", "http://x.test/"),
            ("x-amz-acl", "public-read"),
            ("x-amz-copy-source", "/from/a%20b+c%2Bd?versionId=null"),
            ("x-amz-object-lock-retain-until-date", "2026-01-11T00:00:00Z"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=x"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let account = Arc::new(Account::named("tidegate"));
        let number = account.number();
        let identity = Identity { user: Some("ann".into()), ..Identity::root(account) };
        let caller = Caller::Known(Arc::new(identity));
        let asking = Asking {
            caller: &caller,
            headers: &headers,
            query: "list-type=2&%70refi%78=a%2Fb+c&max-keys=7&delimiter=/",
            peer: Some("::ffff:10.1.2.3".parse().unwrap()),
            tls: Some(TlsVersion::Tls13),
            signed: None,
            now: Timestamp(1_767_225_600_000),
            content: Some(Content::Location("eu-west-1".into())),
        };
        let arn = format!("arn:aws:iam::{number}:user/ann");
        let cases = [
            ("aws:SourceIp", Some("10.1.2.3")),
            ("aws:SecureTransport", Some("true")),
            ("s3:TlsVersion", Some("1.3")),
            ("s3:LocationConstraint", Some("eu-west-1")),
            ("aws:CurrentTime", Some("2026-01-01T00:00:00Z")),
            ("aws:EpochTime", Some("1767225600")),
            ("aws:UserAgent", Some("tool/1")),
            ("aws:Referer", Some("http://x.test/")),
            ("aws:username", Some("ann")),
            ("aws:userid", Some("ann")),
            ("aws:PrincipalArn", Some(arn.as_str())),
            ("aws:PrincipalAccount", Some(number.as_str())),
            ("aws:PrincipalType", Some("User")),
            ("s3:prefix", Some("a/b c")),
            ("s3:delimiter", Some("/")),
            ("s3:max-keys", Some("7")),
            ("s3:x-amz-acl", Some("public-read")),
            ("s3:x-amz-copy-source", Some("from/a b c+d")),
            ("s3:x-amz-storage-class", None),
            ("s3:authType", Some("REST-HEADER")),
            ("s3:signatureversion", Some("AWS4-HMAC-SHA256")),
            ("s3:object-lock-remaining-retention-days", Some("10")),
            ("s3:VersionId", None),
            ("aws:SourceVpc", None),
        ];
        for (name, expected) in cases {
            assert_eq!(asking.value(&Key::new(name)).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_source_is_what_the_copy_reads() {
        let cases = [
            ("from/secret/k", Some("from/secret/k")),
            ("/from/secret/k", Some("from/secret/k")),
            ("%2Ffrom%2Fsecret/k?versionId=null", Some("from/secret/k")),
            ("from/a%3Fb", Some("from/a?b")),
            ("nothing", None),
        ];
        for (source, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-copy-source", source.parse().unwrap());
            let (caller, now) = (&Caller::Anonymous, Timestamp(0));
            let headers = &headers;
            let asking = Asking { caller, headers, query: "", peer: None, tls: None, signed: None, now, content: None };
            assert_eq!(asking.value(&Key::new("s3:x-amz-copy-source")).as_deref(), expected, "{source}");
        }
    }

    #[test]
    fn a_presigned_url_says_its_age() {
        let headers = HeaderMap::new();
        let query = "X-Amz-Date=20260101T000000Z&X-Amz-Signature=a";
        let now = Timestamp(1_767_225_607_000);
        let caller = &Caller::Anonymous;
        let asking =
            Asking { caller, headers: &headers, query, peer: None, tls: None, signed: None, now, content: None };
        assert_eq!(asking.value(&Key::new("s3:signatureAge")).as_deref(), Some("7000"));
        assert_eq!(asking.value(&Key::new("s3:authType")).as_deref(), Some("REST-QUERY-STRING"));
        assert_eq!(asking.value(&Key::new("aws:SourceIp")), None);
        assert_eq!(asking.value(&Key::new("aws:SecureTransport")).as_deref(), Some("false"));
        assert_eq!(asking.value(&Key::new("s3:TlsVersion")), None);
        let form = Asking { signed: Some(("POST", "AWS")), ..asking };
        assert_eq!(form.value(&Key::new("s3:authType")).as_deref(), Some("POST"));
        assert_eq!(form.value(&Key::new("s3:signatureversion")).as_deref(), Some("AWS"));
    }
}
