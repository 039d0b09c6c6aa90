//! Texts of policies: with wildcards, and with variables that the request fills in.

use std::borrow::Cow;

use super::condition::{Context, Key};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Char(char),
    /// `*`: any characters, or none.
    Any,
    /// `?`: one character.
    One,
    /// `${key}`, or `${key, 'default'}`.
    Variable {
        key: Key,
        default: Option<String>,
    },
}

/// A text of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Piece>);

impl Pattern {
    /// Reads a text. In a plain one `*` and `?` mean themselves.
    ///
    /// # Errors
    /// What is wrong with a variable.
    pub(super) fn new(text: &str, wildcards: bool, variables: bool) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if variables && let Some(after) = rest.strip_prefix("${") {
                let (inside, after) =
                    after.split_once('}').ok_or_else(|| format!("the variable in {text:?} has no closing brace"))?;
                pieces.push(variable(inside)?);
                rest = after;
                continue;
            }
            pieces.push(match c {
                '*' if wildcards => Piece::Any,
                '?' if wildcards => Piece::One,
                c => Piece::Char(c),
            });
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
        Ok(Self(pieces))
    }

    /// Whether `text` fits. A variable that the request has no value for fits nothing.
    pub(super) fn matches(&self, text: &str, context: &dyn Context) -> bool {
        self.resolved(context).is_some_and(|pieces| fits(&pieces, text))
    }

    /// [`Pattern::matches`], whatever the case of ASCII letters.
    pub(super) fn matches_ignoring_case(&self, text: &str, context: &dyn Context) -> bool {
        self.resolved(context).is_some_and(|pieces| {
            let lower = |piece: &Piece| match piece {
                Piece::Char(c) => Piece::Char(c.to_ascii_lowercase()),
                other => other.clone(),
            };
            fits(&pieces.iter().map(lower).collect::<Vec<_>>(), &text.to_ascii_lowercase())
        })
    }

    /// Whether an ARN fits, part by part: a wildcard does not reach over the first five colons.
    pub(super) fn matches_arn(&self, arn: &str, context: &dyn Context) -> bool {
        let Some(pieces) = self.resolved(context) else { return false };
        let patterns: Vec<_> = pieces.splitn(6, |piece| *piece == Piece::Char(':')).collect();
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        patterns.len() == 6
            && parts.len() == 6
            && patterns.into_iter().zip(parts).all(|(pattern, part)| fits(pattern, part))
    }

    /// Whether there are wildcards or variables in it.
    pub(super) fn is_open(&self) -> bool {
        self.plain().is_none()
    }

    /// The text, when there are no wildcards and no variables in it.
    pub(super) fn plain(&self) -> Option<String> {
        let char = |piece: &Piece| match piece {
            Piece::Char(c) => Some(*c),
            _ => None,
        };
        self.0.iter().map(char).collect()
    }

    /// Whether the request has a say in it.
    pub(super) fn has_variables(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Variable { .. }))
    }

    /// Whether `text` can fit, whatever the variables are.
    pub(super) fn may_match(&self, text: &str) -> bool {
        let open: Vec<_> = self
            .0
            .iter()
            .map(|piece| if matches!(piece, Piece::Variable { .. }) { Piece::Any } else { piece.clone() })
            .collect();
        fits(&open, text)
    }

    /// The part before the first of `stop`, for a check of what it can match; `None` when there is no such character.
    pub(super) fn before(&self, stop: char) -> Option<Self> {
        let at = self.0.iter().position(|piece| *piece == Piece::Char(stop))?;
        Some(Self(self.0.get(..at)?.to_vec()))
    }

    fn resolved(&self, context: &dyn Context) -> Option<Cow<'_, [Piece]>> {
        if !self.has_variables() {
            return Some(Cow::Borrowed(&self.0));
        }
        let mut pieces = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            let Piece::Variable { key, default } = piece else {
                pieces.push(piece.clone());
                continue;
            };
            let value = match context.values(key).as_deref() {
                Some([value]) => value.clone(),
                // Of several values none is the one that is meant.
                _ => default.clone()?,
            };
            if value.len().saturating_add(pieces.len()) > MAX_PIECES {
                return None;
            }
            // What a request says has no wildcards.
            pieces.extend(value.chars().map(Piece::Char));
        }
        Some(Cow::Owned(pieces))
    }
}

/// A pattern whose variables make it longer than this fits nothing that a request has: headers have 32 KiB together.
const MAX_PIECES: usize = 64 << 10;

fn variable(inside: &str) -> Result<Piece, String> {
    if let "*" | "?" | "$" = inside {
        return Ok(Piece::Char(inside.chars().next().unwrap_or('$')));
    }
    let (key, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((key, default)) => {
            let quoted = default.trim().strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let default =
                quoted.ok_or_else(|| format!("the default of the variable ${{{inside}}} is not in quotes"))?;
            (key, Some(default.to_owned()))
        }
    };
    match key.trim() {
        "" => Err("a variable has no name".into()),
        key => Ok(Piece::Variable { key: Key::new(key), default }),
    }
}

/// Goes back only to the last `*`: what an earlier one took cannot help a later one.
fn fits(pieces: &[Piece], text: &str) -> bool {
    let mut at = 0;
    let mut rest = text.chars();
    let mut star: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let mut next = rest.clone();
        let c = next.next();
        match (pieces.get(at), c) {
            (Some(Piece::Any), _) => {
                star = Some((at, rest.clone()));
                at += 1;
                continue;
            }
            (Some(Piece::One), Some(_)) => {
                at += 1;
                rest = next;
                continue;
            }
            (Some(Piece::Char(p)), Some(c)) if *p == c => {
                at += 1;
                rest = next;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((star_at, taken)) = &mut star else { return false };
        if taken.next().is_none() {
            return false;
        }
        at = *star_at + 1;
        rest = taken.clone();
    }
}

/// Whether `text` fits a pattern of `*` and `?`.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let piece = |c| match c {
        '*' => Piece::Any,
        '?' => Piece::One,
        c => Piece::Char(c),
    };
    fits(&pattern.chars().map(piece).collect::<Vec<_>>(), text)
}
