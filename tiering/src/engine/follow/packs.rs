//! What the shipped records say of packs in tiers, put into the index in memory: elsewhere whoever commits such a record
//! does that himself.

use super::Core;
use crate::engine::doom::RemotePack;
use crate::engine::error::EngineError;
use crate::engine::record::{Record, RemoteFooter, RemotePackState};
use crate::engine::transition::folder;
use crate::meta::{AppliedOp, CommitObserver, MetaStore, Table, Value};
use std::sync::Weak;

/// Hears of the records that are applied.
pub(crate) struct FollowPacks(pub Weak<Core>);

impl CommitObserver for FollowPacks {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        if !ops.iter().any(|one| one.op.table == Table::RemotePack) {
            return;
        }
        // Gone: the engine is being closed, and with it the index.
        let Some(core) = self.0.upgrade() else { return };
        for one in ops.iter().filter(|one| one.op.table == Table::RemotePack) {
            if let Err(e) = core.follow_pack(one, ops) {
                core.broken.report(Table::RemotePack, &one.op.key, &e);
            }
        }
    }
}

impl Core {
    fn follow_pack(&self, change: &AppliedOp, ops: &[AppliedOp]) -> Result<(), EngineError> {
        let key = &change.op.key;
        let live = |stored: &Value| {
            let found = RemotePack::read(key, stored)?;
            Ok::<_, EngineError>((found.record.state == RemotePackState::Live).then_some(found))
        };
        let before = change.old.as_ref().map(live).transpose()?.flatten();
        let now = change.op.value.as_deref().map(|v| live(&Value::from(v))).transpose()?.flatten();
        let footer = || {
            // The record that removes a pack may remove its footer too.
            let same = ops.iter().find(|one| one.op.table == Table::Manifest && one.op.key == *key);
            let stored = match same.and_then(|one| one.op.value.as_deref().map(Value::from).or_else(|| one.old.clone()))
            {
                Some(stored) => Some(stored),
                None => self.meta.get(Table::Manifest, key)?,
            };
            let missing = || EngineError::Corrupt("the footer of a pack is missing".to_owned());
            RemoteFooter::decode(&stored.ok_or_else(missing)?)
        };
        match (before, now) {
            (None, Some(pack)) if !self.remote.holds(&pack.tier, &pack.pack) => {
                let footer = footer().and_then(|f| f.check().map(|()| f));
                let footer = footer.inspect_err(|_| self.remote.note_unreadable(Some(&pack.tier)))?;
                if let Some(tier) = self.tiers.get(&pack.tier) {
                    tier.expect(&folder(&self.deployment));
                }
                self.remote.add(&pack.tier, pack.pack, &pack.record.name, &footer)
            }
            (Some(pack), None) => self.remote.remove(&pack.tier, pack.pack, footer().ok().as_ref()),
            _ => Ok(()),
        }
    }
}
