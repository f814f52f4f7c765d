//! JSON pointers (RFC 6901).

use std::fmt::Write;

/// Escapes one reference token.
pub(crate) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// Splits a pointer into its tokens, and unescapes them. The empty pointer has no tokens.
///
/// # Errors
/// When a pointer that is not empty does not start with a slash, or a tilde is not part of an escape sequence.
pub(crate) fn tokens(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(format!("path {pointer:?} must start with /"));
    };
    rest.split('/').map(unescape).collect()
}

fn unescape(token: &str) -> Result<String, String> {
    let mut unescaped = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        if character != '~' {
            unescaped.push(character);
            continue;
        }
        match characters.next() {
            Some('0') => unescaped.push('~'),
            Some('1') => unescaped.push('/'),
            _ => return Err(format!("{token:?} has a ~ that is neither ~0 nor ~1")),
        }
    }
    Ok(unescaped)
}

/// Joins tokens into a pointer, and escapes them.
pub(crate) fn join(tokens: &[String]) -> String {
    tokens.iter().fold(String::new(), |mut pointer, token| {
        // Writing to a String cannot fail.
        let _ = write!(pointer, "/{}", escape(token));
        pointer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_pointer_joins_to_the_same_pointer() {
        let pointer = "/resources/limits/example.com~1gpu/a~0b//";
        let parts = tokens(pointer).unwrap();
        assert_eq!(parts, ["resources", "limits", "example.com/gpu", "a~b", "", ""]);
        assert_eq!(join(&parts), pointer);
        assert_eq!(tokens("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn malformed_pointers_are_rejected() {
        for pointer in ["a", "a/b", "/~", "/~2", "#/a"] {
            assert!(tokens(pointer).is_err(), "{pointer}");
        }
    }
}
