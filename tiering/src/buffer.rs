//! Large buffers that are used again.
//!
//! Bodies pass through the process in pieces of some 100 KiB. The tempting alternative, a fresh allocation for each of
//! them, costs more than a copy: the allocator gives memory of that size back to the system between bursts, and every
//! page that comes anew is cleared by the kernel first. A buffer that was just used is also still in the processor's cache.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one size. Cheap to clone; clones share the free buffers.
#[derive(Debug, Clone)]
pub struct BufferPool(Arc<Free>);

#[derive(Debug)]
struct Free {
    buffers: Mutex<Vec<Box<[u8]>>>,
    /// Bytes of each buffer.
    size: usize,
    /// Free buffers beyond so many are given back to the allocator.
    keep: usize,
}

impl BufferPool {
    /// A pool of buffers of `size` bytes that keeps at most `keep` of them while they are not used. How many are in use at
    /// a time is the caller's to bound.
    pub fn new(size: usize, keep: usize) -> Self {
        Self(Arc::new(Free { buffers: Mutex::default(), size, keep }))
    }

    /// Bytes of each buffer.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let free = self.0.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; self.0.size].into_boxed_slice());
        Buffer { bytes, len: 0, pool: Some(Arc::clone(&self.0)) }
    }
}

/// A buffer that goes back to its pool when it, or the last [`Bytes`] made of it, is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    /// None when it goes back to the allocator.
    pool: Option<Arc<Free>>,
}

impl Buffer {
    /// A buffer of `size` bytes that belongs to no pool.
    pub fn alone(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), len: 0, pool: None }
    }

    /// Bytes that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is not filled yet. It holds bytes of earlier uses.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Counts the first `count` bytes of [`spare`](Self::spare) as filled; at most all of them.
    pub fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.bytes.len());
    }

    /// Copies as much of `from` as there is room for, and gives what is left of it.
    pub fn fill<'a>(&mut self, from: &'a [u8]) -> &'a [u8] {
        let count = from.len().min(self.bytes.len() - self.len);
        let (taken, rest) = from.split_at(count);
        self.spare()[..count].copy_from_slice(taken);
        self.advance(count);
        rest
    }

    /// The filled bytes, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let mut free = pool.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < pool.keep {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_piece_is_dropped_and_the_pool_keeps_no_more_than_it_may() {
        let pool = BufferPool::new(8, 1);
        let mut buffer = pool.take();
        assert_eq!(buffer.fill(b"0123456789"), b"89");
        let address = buffer.as_ref().as_ptr();
        let whole = buffer.freeze();
        let piece = whole.slice(2..4);
        drop(whole);
        assert_ne!(pool.take().as_ref().as_ptr(), address, "a piece of it is still read");
        assert_eq!(piece, "23");
        let other = pool.take();
        drop(piece);
        assert_eq!(pool.take().spare().as_ptr(), address);
        drop((other, pool.take()));
        assert_eq!(pool.0.buffers.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_used_buffer_starts_empty_again() {
        let pool = BufferPool::new(4, 4);
        let mut buffer = pool.take();
        buffer.spare()[..3].copy_from_slice(b"abc");
        buffer.advance(3);
        assert_eq!((buffer.as_ref(), buffer.len(), buffer.is_empty()), (&b"abc"[..], 3, false));
        drop(buffer);
        let again = pool.take();
        assert!(again.is_empty());
        assert_eq!(again.freeze(), "");
    }
}
