//! Steps on archived objects: one of class Archive, one of class ColdArchive. Both are billed for their minimum duration.

use super::Run;
use super::exchange::Ask;
use super::suite::{bytes, delete, get, head, put_class};
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use crate::tier::oss::settings::StorageClass;
use md5::{Digest as _, Md5};
use reqwest::Method;

fn restore(name: &str, document: &str) -> Ask {
    Ask::new(Operation::RestoreObject, Method::POST, Some(name))
        .query("restore", "")
        .header("content-type", "application/xml")
        .body(document.to_owned())
}

fn clean(name: &str) -> Ask {
    Ask::new(Operation::CleanRestoredObject, Method::POST, Some(name)).query("cleanRestoredObject", "")
}

fn tier(name: &str) -> String {
    format!("<RestoreRequest><Days>1</Days><JobParameters><Tier>{name}</Tier></JobParameters></RestoreRequest>")
}

const ONE_DAY: &str = "<RestoreRequest><Days>1</Days></RestoreRequest>";

impl Run<'_> {
    pub(super) async fn archive(&mut self) -> Result<(), TierError> {
        let name = self.name("archive");
        self.step("restore-standard-object", restore(&self.name("plain"), ONE_DAY)).await?;
        self.step("restore-missing", restore(&self.name("missing"), ONE_DAY)).await?;
        self.step("archive-put", put_class(&name, bytes(100), StorageClass::Archive)).await?;
        self.step("archive-head", head(&name)).await?;
        self.step("archive-get-frozen", get(&name)).await?;
        let etag = format!("\"{}\"", hex::encode_upper(Md5::digest(bytes(100))));
        self.step("archive-get-frozen-conditional", get(&name).header("if-none-match", etag)).await?;
        let copy = Ask::new(Operation::CopyObject, Method::PUT, Some(&self.name("thawed")))
            .header("x-oss-copy-source", self.copy_source(&name))
            .header("x-oss-storage-class", "Standard");
        self.step("archive-copy-frozen", copy).await?;
        self.step("archive-clean-frozen", clean(&name)).await?;
        let too_long = "<RestoreRequest><Days>8</Days></RestoreRequest>";
        self.step("archive-restore-too-long", restore(&name, too_long)).await?;
        self.step("archive-restore", restore(&name, ONE_DAY)).await?;
        self.step("archive-head-restoring", head(&name)).await?;
        self.step("archive-restore-again", restore(&name, ONE_DAY)).await?;
        self.step("archive-get-restoring", get(&name)).await?;
        self.step("archive-clean-restoring", clean(&name)).await?;
        self.step("archive-delete", delete(&name)).await?;
        Ok(())
    }

    pub(super) async fn cold_archive(&mut self) -> Result<(), TierError> {
        let name = self.name("cold-archive");
        self.step("cold-put", put_class(&name, bytes(100), StorageClass::ColdArchive)).await?;
        self.step("cold-get-frozen", get(&name)).await?;
        self.step("cold-restore-unknown-tier", restore(&name, &tier("Fast"))).await?;
        let glacier = "<RestoreRequest><Days>1</Days><GlacierJobParameters><Tier>Bulk</Tier></GlacierJobParameters></RestoreRequest>";
        self.step("cold-restore-glacier-node", restore(&name, glacier)).await?;
        self.step("cold-restore-bulk", restore(&name, &tier("Bulk"))).await?;
        self.step("cold-head-restoring", head(&name)).await?;
        self.step("cold-restore-again", restore(&name, &tier("Bulk"))).await?;
        self.step("cold-restore-raise", restore(&name, &tier("Standard"))).await?;
        self.step("cold-delete", delete(&name)).await?;
        Ok(())
    }
}
