//! What it cost: the simulator's own bill for the packs, and arithmetic for one cloud object per file.

use serde_json::Value;

/// A gigabyte as the service bills it.
const GB: f64 = (1u64 << 30) as f64;
/// Hours of a billed month.
const MONTH_HOURS: f64 = 30.0 * 24.0;
/// Smallest size, in bytes, that IA and Archive bill an object as.
const MIN_BYTES: u64 = 64 << 10;

/// Prices of a class in CNY: mainland China, pay as you go, from the vendor's billing examples as of 2024-11-20.
struct Prices {
    gb_month: f64,
    per_10k_requests: f64,
    retrieval_gb: f64,
}

const IA: Prices = Prices { gb_month: 0.08, per_10k_requests: 0.1, retrieval_gb: 0.0325 };
const ARCHIVE: Prices = Prices { gb_month: 0.033, per_10k_requests: 0.1, retrieval_gb: 0.06 };
const STANDARD: Prices = Prices { gb_month: 0.12, per_10k_requests: 0.01, retrieval_gb: 0.0 };

/// Date of the prices.
pub const AS_OF: &str = "2024-11-20";

/// A sum of money and what it is made of.
#[derive(Debug, Default, Clone, Copy)]
pub struct Bill {
    /// Requests, of all types.
    pub requests: f64,
    /// CNY for requests.
    pub request_cost: f64,
    /// CNY for storage, minimum durations included.
    pub storage_cost: f64,
    /// CNY for reading from IA and restoring from Archive.
    pub retrieval_cost: f64,
}

impl Bill {
    /// CNY altogether.
    pub fn total(&self) -> f64 {
        self.request_cost + self.storage_cost + self.retrieval_cost
    }
}

fn prices(class: &str) -> Result<&'static Prices, String> {
    match class {
        "Standard" => Ok(&STANDARD),
        "IA" => Ok(&IA),
        "Archive" => Ok(&ARCHIVE),
        other => Err(format!("the bill has a line of class {other}, which the demo never uses")),
    }
}

/// Prices the simulator's ledger.
pub fn of_ledger(ledger: &Value) -> Result<Bill, String> {
    let lines = ledger.as_array().or_else(|| ledger.get("lines").and_then(Value::as_array));
    let mut bill = Bill::default();
    for line in lines.ok_or_else(|| format!("the ledger has no lines: {ledger}"))? {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        let quantity = line.get("quantity").and_then(Value::as_f64).ok_or_else(|| format!("no quantity in {line}"))?;
        let prices = prices(text("class"))?;
        match text("unit") {
            "requests" => {
                bill.requests += quantity;
                bill.request_cost += quantity / 10_000.0 * prices.per_10k_requests;
            }
            "byte_hours" => bill.storage_cost += quantity / GB / MONTH_HOURS * prices.gb_month,
            "bytes" => bill.retrieval_cost += quantity / GB * prices.retrieval_gb,
            other => return Err(format!("the ledger has the unknown unit {other:?}")),
        }
    }
    Ok(bill)
}

/// The same course of things with one cloud object per file: PUT into IA, `ia_hours` there, converted to Archive,
/// `archive_hours` there, restored and read back once.
pub fn one_object_each(sizes: &[u64], ia_hours: f64, archive_hours: f64) -> Bill {
    let billed: f64 = sizes.iter().map(|&s| s.max(MIN_BYTES) as f64).sum();
    let bytes: f64 = sizes.iter().map(|&s| s as f64).sum();
    let count = sizes.len() as f64;
    // PUT, conversion, RestoreObject and GET: one of each per object.
    let requests = 4.0 * count;
    Bill {
        requests,
        request_cost: (count * IA.per_10k_requests + 3.0 * count * ARCHIVE.per_10k_requests) / 10_000.0,
        storage_cost: billed / GB / MONTH_HOURS * (ia_hours * IA.gb_month + archive_hours * ARCHIVE.gb_month),
        retrieval_cost: bytes / GB * ARCHIVE.retrieval_gb,
    }
}

/// CNY that a month in Archive costs for objects of these sizes.
pub fn archive_month(sizes: impl IntoIterator<Item = u64>) -> f64 {
    sizes.into_iter().map(|size| size.max(MIN_BYTES) as f64).sum::<f64>() / GB * ARCHIVE.gb_month
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_priced_line_by_line() {
        let ledger = serde_json::json!([
            {"code": "PutRequest", "class": "IA", "quantity": 10_000.0, "unit": "requests"},
            {"code": "ChargedDatasize", "class": "Archive", "quantity": GB * MONTH_HOURS, "unit": "byte_hours"},
            {"code": "RetrievalData", "class": "IA", "quantity": GB, "unit": "bytes"},
        ]);
        let bill = of_ledger(&ledger).unwrap();
        assert!((bill.total() - (0.1 + 0.033 + 0.0325)).abs() < 1e-9, "{bill:?}");
    }

    #[test]
    fn small_objects_are_billed_as_64_kib() {
        assert!((archive_month([1, 1]) - archive_month([64 << 10, 64 << 10])).abs() < 1e-12);
        assert!(one_object_each(&[1; 1000], 720.0, 0.0).storage_cost > 0.004);
    }
}
