//! The price book: what the cloud bills. Every number is a setting.

use crate::Millis;
use crate::class::Class;
use crate::money::Money;
use crate::units::DAY;
use serde::{Deserialize, Serialize};

/// A gigabyte as OSS bills it.
pub const GB: u64 = 1 << 30;
/// A month as OSS bills it: 30 days of 24 hours.
pub const MONTH: Millis = 30 * DAY;
/// Smallest size, in bytes, as which every class but Standard bills an object.
const MIN_BYTES: u64 = 64 << 10;

/// Prices of one region and their date. The default is OSS in mainland China, pay as you go, locally redundant storage, as of
/// 2024-11-20 (the vendor's billing examples; DeepColdArchive's storage price is from memory and unverified). Numbers
/// that no source gave are `None`: checks that need them are skipped with a warning.
///
/// Read from configuration, a partial book changes only the numbers it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "patch::Book")]
pub struct PriceBook {
    /// Date of the prices, shown wherever a sum is shown.
    pub as_of: String,
    /// Currency of all amounts.
    pub currency: String,
    /// What a GB-month on the gateway's own disk counts, when staying hot is compared with moving. By default the Standard
    /// class: what the same GB would cost in the cloud.
    pub hot: Option<Money>,
    /// Standard.
    pub standard: ClassPrices,
    /// IA.
    pub ia: ClassPrices,
    /// Archive.
    pub archive: ClassPrices,
    /// ColdArchive.
    pub cold_archive: ClassPrices,
    /// DeepColdArchive.
    pub deep_cold_archive: ClassPrices,
}

/// Prices and minimums of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassPrices {
    /// Storage, per GB (2^30 bytes) and month of 30 days.
    pub storage: Option<Money>,
    /// Write requests, per 10,000. Deletes and class conversions are billed as writes.
    pub put: Option<Money>,
    /// Read requests, per 10,000.
    pub get: Option<Money>,
    /// Reading (IA) or restoring (archive classes), fastest.
    pub expedited: RetrievalPrices,
    /// Reading or restoring, normal. Classes with one speed have the same prices in all three.
    pub normal: RetrievalPrices,
    /// Reading or restoring, cheapest.
    pub bulk: RetrievalPrices,
    /// The readable copy that a restore makes, per GB-month.
    pub restored_copy: Option<Money>,
    /// Smallest size, in bytes, that an object is billed as.
    pub min_bytes: u64,
    /// Days for which an object is billed at least.
    pub min_days: u32,
}

/// Prices of getting data out of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalPrices {
    /// Per GB.
    pub per_gb: Option<Money>,
    /// Per 10,000 requests.
    pub requests: Option<Money>,
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Writes, deletes, class conversions.
    Put,
    /// Reads.
    Get,
}

/// How fast data is retrieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetrievalSpeed {
    /// Fastest, dearest.
    Expedited,
    /// The default.
    Normal,
    /// Cheapest, slowest.
    Bulk,
}

impl Default for PriceBook {
    fn default() -> Self {
        let yuan = |millionths: u128| Some(Money::from_nanos(millionths * 1000));
        let flat = |storage, request, retrieval, min_bytes, min_days| {
            let speed = RetrievalPrices { per_gb: retrieval, requests: yuan(0) };
            ClassPrices {
                storage,
                put: request,
                get: request,
                expedited: speed,
                normal: speed,
                bulk: speed,
                restored_copy: yuan(0),
                min_bytes,
                min_days,
            }
        };
        let cold = |per_gb, requests| RetrievalPrices { per_gb: yuan(per_gb), requests: yuan(requests) };
        let unknown = RetrievalPrices::default();
        Self {
            as_of: "2024-11-20".to_owned(),
            currency: "CNY".to_owned(),
            hot: yuan(120_000),
            standard: flat(yuan(120_000), yuan(10_000), yuan(0), 0, 0),
            ia: flat(yuan(80_000), yuan(100_000), yuan(32_500), MIN_BYTES, 30),
            archive: flat(yuan(33_000), yuan(100_000), yuan(60_000), MIN_BYTES, 60),
            cold_archive: ClassPrices {
                expedited: cold(200_000, 30_000_000),
                normal: cold(60_000, 3_000_000),
                bulk: cold(30_000, 300_000),
                restored_copy: yuan(120_000),
                ..flat(yuan(15_000), yuan(100_000), None, MIN_BYTES, 180)
            },
            deep_cold_archive: ClassPrices {
                expedited: unknown,
                normal: unknown,
                bulk: unknown,
                restored_copy: yuan(120_000),
                ..flat(yuan(7_500), None, None, MIN_BYTES, 180)
            },
        }
    }
}

impl PriceBook {
    /// The prices of `class`.
    pub fn class(&self, class: Class) -> &ClassPrices {
        match class {
            Class::Standard => &self.standard,
            Class::Ia => &self.ia,
            Class::Archive => &self.archive,
            Class::ColdArchive => &self.cold_archive,
            Class::DeepColdArchive => &self.deep_cold_archive,
        }
    }

    /// What one object of `bytes` is billed as in `class`, in bytes.
    pub fn billed_bytes(&self, class: Class, bytes: u64) -> u64 {
        bytes.max(self.class(class).min_bytes)
    }

    /// How long an object in `class` is billed at least, in milliseconds.
    pub fn min_duration(&self, class: Class) -> Millis {
        u64::from(self.class(class).min_days) * DAY
    }

    /// Storing one object of `bytes` in `class` for `duration` milliseconds: the size floor counts, the minimum duration does
    /// not (see [`PriceBook::early_deletion`]). `None` when the price is not known.
    pub fn storage(&self, class: Class, bytes: u64, duration: Millis) -> Option<Money> {
        self.class(class).storage.map(|price| storage_at(price, self.billed_bytes(class, bytes), duration))
    }

    /// Keeping `bytes` on the gateway's own disk for `duration` milliseconds. `None` when the book counts it at no price.
    pub fn hot_storage(&self, bytes: u64, duration: Millis) -> Option<Money> {
        self.hot.map(|price| storage_at(price, bytes, duration))
    }

    /// The charge for removing one object of `bytes` from `class` that was there for `stored` milliseconds: the rest of the
    /// minimum duration. Overwriting and changing the class count as removing.
    pub fn early_deletion(&self, class: Class, bytes: u64, stored: Millis) -> Option<Money> {
        self.storage(class, bytes, self.min_duration(class).saturating_sub(stored))
    }

    /// `count` requests in `class`.
    pub fn requests(&self, class: Class, request: Request, count: u64) -> Option<Money> {
        let prices = self.class(class);
        let price = match request {
            Request::Put => prices.put,
            Request::Get => prices.get,
        };
        price.map(|p| p.scale(u128::from(count), 10_000))
    }

    /// Reading or restoring `bytes` in `requests` requests from `class`.
    pub fn retrieval(&self, class: Class, speed: RetrievalSpeed, bytes: u64, requests: u64) -> Option<Money> {
        let prices = self.class(class);
        let prices = match speed {
            RetrievalSpeed::Expedited => prices.expedited,
            RetrievalSpeed::Normal => prices.normal,
            RetrievalSpeed::Bulk => prices.bulk,
        };
        let data = prices.per_gb?.scale(u128::from(bytes), u128::from(GB));
        Some(data + prices.requests?.scale(u128::from(requests), 10_000))
    }

    /// Storing `sizes` as one object each in `class` for `duration` milliseconds: one PUT an object.
    pub fn estimate_objects(&self, class: Class, sizes: impl IntoIterator<Item = u64>, duration: Millis) -> Estimate {
        let (mut objects, mut bytes, mut billed) = (0u64, 0u64, 0u64);
        for size in sizes {
            objects = objects.saturating_add(1);
            bytes = bytes.saturating_add(size);
            billed = billed.saturating_add(self.billed_bytes(class, size));
        }
        self.estimate(class, [objects, bytes, billed], duration)
    }

    /// Storing `bytes` in packs of `pack_bytes` (at least 1) in `class` for `duration` milliseconds: one PUT a pack.
    pub fn estimate_packs(&self, class: Class, bytes: u64, pack_bytes: u64, duration: Millis) -> Estimate {
        let pack_bytes = pack_bytes.max(1);
        let last = bytes % pack_bytes;
        let full = bytes - last;
        let billed_last = if last == 0 { 0 } else { self.billed_bytes(class, last) };
        let billed_full = (full / pack_bytes).saturating_mul(self.billed_bytes(class, pack_bytes));
        let billed = billed_full.saturating_add(billed_last);
        self.estimate(class, [bytes.div_ceil(pack_bytes), bytes, billed], duration)
    }

    fn estimate(&self, class: Class, [objects, bytes, billed_bytes]: [u64; 3], duration: Millis) -> Estimate {
        Estimate {
            class,
            objects,
            bytes,
            billed_bytes,
            puts: objects,
            put_cost: self.requests(class, Request::Put, objects),
            storage_cost: self.class(class).storage.map(|price| storage_at(price, billed_bytes, duration)),
        }
    }
}

/// What a way of storing data costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// The class.
    pub class: Class,
    /// Remote objects.
    pub objects: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Bytes billed: each object at least at the class's minimum size.
    pub billed_bytes: u64,
    /// Write requests. A multipart upload has some more; they are not counted.
    pub puts: u64,
    /// Cost of the write requests.
    pub put_cost: Option<Money>,
    /// Cost of the storage for the duration asked about.
    pub storage_cost: Option<Money>,
}

impl Estimate {
    /// Writing and storing together; `None` when a price is not known.
    pub fn total(&self) -> Option<Money> {
        Some(self.put_cost? + self.storage_cost?)
    }
}

/// `bytes` for `duration` milliseconds at `price` a GB-month, rounded down to a billionth.
pub(crate) fn storage_at(price: Money, bytes: u64, duration: Millis) -> Money {
    // Below 2^128, as both factors are below 2^64.
    price.scale(u128::from(bytes) * u128::from(duration), u128::from(GB) * u128::from(MONTH))
}

/// A price book as configuration gives it: every number optional, laid over the default.
mod patch {
    use super::{ClassPrices, PriceBook, RetrievalPrices};
    use crate::money::Money;
    use serde::Deserialize;

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    pub(super) struct Book {
        as_of: Option<String>,
        currency: Option<String>,
        hot: Option<Money>,
        standard: Option<Class>,
        ia: Option<Class>,
        archive: Option<Class>,
        cold_archive: Option<Class>,
        deep_cold_archive: Option<Class>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    struct Class {
        storage: Option<Money>,
        put: Option<Money>,
        get: Option<Money>,
        expedited: Option<Retrieval>,
        normal: Option<Retrieval>,
        bulk: Option<Retrieval>,
        restored_copy: Option<Money>,
        min_bytes: Option<u64>,
        min_days: Option<u32>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    struct Retrieval {
        per_gb: Option<Money>,
        requests: Option<Money>,
    }

    impl From<Book> for PriceBook {
        fn from(patch: Book) -> Self {
            let base = PriceBook::default();
            Self {
                as_of: patch.as_of.unwrap_or(base.as_of),
                currency: patch.currency.unwrap_or(base.currency),
                hot: patch.hot.or(base.hot),
                standard: class(base.standard, patch.standard),
                ia: class(base.ia, patch.ia),
                archive: class(base.archive, patch.archive),
                cold_archive: class(base.cold_archive, patch.cold_archive),
                deep_cold_archive: class(base.deep_cold_archive, patch.deep_cold_archive),
            }
        }
    }

    fn class(base: ClassPrices, patch: Option<Class>) -> ClassPrices {
        let Some(patch) = patch else { return base };
        ClassPrices {
            storage: patch.storage.or(base.storage),
            put: patch.put.or(base.put),
            get: patch.get.or(base.get),
            expedited: retrieval(base.expedited, patch.expedited),
            normal: retrieval(base.normal, patch.normal),
            bulk: retrieval(base.bulk, patch.bulk),
            restored_copy: patch.restored_copy.or(base.restored_copy),
            min_bytes: patch.min_bytes.unwrap_or(base.min_bytes),
            min_days: patch.min_days.unwrap_or(base.min_days),
        }
    }

    fn retrieval(base: RetrievalPrices, patch: Option<Retrieval>) -> RetrievalPrices {
        let Some(patch) = patch else { return base };
        RetrievalPrices { per_gb: patch.per_gb.or(base.per_gb), requests: patch.requests.or(base.requests) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Option<Money> {
        Money::parse(text)
    }

    #[test]
    fn a_gigabyte_month_costs_what_the_book_says_and_small_objects_cost_the_floor() {
        let book = PriceBook::default();
        assert_eq!(book.storage(Class::Ia, GB, MONTH), money("0.08"));
        assert_eq!(book.storage(Class::Ia, 1, MONTH), book.storage(Class::Ia, 64 << 10, MONTH));
        assert_eq!(book.storage(Class::Standard, 0, MONTH), money("0"));
        assert_eq!(book.storage(Class::Archive, u64::MAX, u64::MAX).map(|m| m > Money::ZERO), Some(true));
    }

    #[test]
    fn leaving_early_costs_the_rest_of_the_minimum_duration() {
        let book = PriceBook::default();
        assert_eq!(book.early_deletion(Class::Archive, GB, 30 * DAY), money("0.033"));
        assert_eq!(book.early_deletion(Class::Archive, GB, 60 * DAY), money("0"));
        assert_eq!(book.early_deletion(Class::Standard, GB, 0), money("0"));
        assert_eq!(book.early_deletion(Class::ColdArchive, GB, 0), money("0.09"));
    }

    #[test]
    fn requests_and_retrieval_are_billed_and_unknown_prices_stay_unknown() {
        let book = PriceBook::default();
        assert_eq!(book.requests(Class::Ia, Request::Put, 1_000_000), money("10"));
        assert_eq!(book.requests(Class::DeepColdArchive, Request::Put, 1), None);
        assert_eq!(book.retrieval(Class::ColdArchive, RetrievalSpeed::Expedited, GB, 10_000), money("30.2"));
        assert_eq!(book.retrieval(Class::Ia, RetrievalSpeed::Normal, GB, 5), money("0.0325"));
        assert_eq!(book.retrieval(Class::DeepColdArchive, RetrievalSpeed::Bulk, GB, 1), None);
    }

    #[test]
    fn packs_of_32_mib_make_a_million_small_objects_cheap() {
        let book = PriceBook::default();
        let single = book.estimate_objects(Class::Ia, std::iter::repeat_n(16 << 10, 1_000_000), MONTH);
        assert_eq!(single.billed_bytes / GB, 61);
        assert_eq!(single.put_cost, money("10"));
        let packed = book.estimate_packs(Class::Ia, single.bytes, 32 << 20, MONTH);
        assert_eq!((packed.objects, packed.bytes / GB), (489, 15));
        assert_eq!(packed.put_cost, money("0.00489"));
        assert!(packed.total().unwrap() < Money::parse("1.23").unwrap());
        assert_eq!(book.estimate_packs(Class::Ia, 10, 0, MONTH).objects, 10);
    }

    #[test]
    fn a_partial_book_changes_only_what_it_names() {
        let book: PriceBook = serde_json::from_str(r#"{"asOf": "2026-01-01", "ia": {"storage": 0.09}}"#).unwrap();
        assert_eq!(book.ia.storage, money("0.09"));
        assert_eq!(book.ia.put, money("0.1"));
        assert_eq!(book.archive, PriceBook::default().archive);
        assert!(serde_json::from_str::<PriceBook>(r#"{"ia": {"storge": 1}}"#).is_err());
        let again: PriceBook = serde_json::from_value(serde_json::to_value(&book).unwrap()).unwrap();
        assert_eq!(again, book);
    }
}
