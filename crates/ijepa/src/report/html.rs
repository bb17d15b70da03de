//! How does text become part of a page without becoming markup?

/// Text for an element or a quoted attribute; control characters, which HTML forbids, become the replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(letter),
            _ if letter.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Elements that have no end tag.
    const VOID: [&str; 4] = ["meta", "img", "br", "!doctype"];

    /// A small check, not a parser: start and end tags nest, apart from the contents of `style`.
    pub(in crate::report) fn assert_every_tag_closes(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            let end = at + rest[at..].find('>').unwrap_or_else(|| panic!("unclosed tag: {}", &rest[at..]));
            let tag = &rest[at + 1..end];
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "end tag before {}", &rest[..at.min(80)]);
            } else if !VOID.contains(&name) && !tag.ends_with('/') {
                open.push(name);
            }
            rest = &rest[end + 1..];
            if name == "style" && !tag.starts_with('/') {
                rest = &rest[rest.find("</style>").expect("style closes")..];
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        assert!(!rest.contains('>'));
    }

    #[test]
    fn letters_of_every_script_stay() {
        assert_eq!(escape("Schrödinger 猫 ×10⁻³\n"), "Schrödinger 猫 ×10⁻³\n");
    }

    #[test]
    #[should_panic(expected = "never closed")]
    fn the_tag_check_sees_an_open_tag() {
        assert_every_tag_closes("<p><b>x</b>");
    }
}
