//! x
/// p
#[derive(Debug, Clone, Default)]
pub struct PriceBook {}
