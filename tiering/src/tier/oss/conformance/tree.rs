//! Any document of the service as a tree, for comparing documents of which only some elements are known.

use quick_xml::events::Event;

/// Deepest nesting; the service's documents have five levels.
const MAX_DEPTH: usize = 32;

/// An element: its local name, its own text, its children in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub name: String,
    pub text: String,
    pub children: Vec<Node>,
}

impl Node {
    /// Reads a document; `None` for what is not one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Node> {
        let mut reader = quick_xml::Reader::from_reader(bytes);
        let mut stack = vec![Node::default()];
        loop {
            match reader.read_event().ok()? {
                Event::Start(start) if stack.len() <= MAX_DEPTH => stack.push(Node::named(start.local_name().as_ref())),
                Event::Start(_) => return None,
                Event::Empty(start) => stack.last_mut()?.children.push(Node::named(start.local_name().as_ref())),
                Event::End(_) => {
                    let node = stack.pop()?;
                    stack.last_mut()?.children.push(node);
                }
                Event::Text(text) => stack.last_mut()?.text.push_str(&text.decode().ok()?),
                Event::CData(text) => stack.last_mut()?.text.push_str(&text.decode().ok()?),
                Event::GeneralRef(entity) => {
                    let node = stack.last_mut()?;
                    match entity.resolve_char_ref().ok()? {
                        Some(character) => node.text.push(character),
                        None => {
                            let name = entity.decode().ok()?;
                            node.text.push_str(quick_xml::escape::resolve_predefined_entity(&name)?);
                        }
                    }
                }
                Event::Eof => break,
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let top = stack.pop().filter(|top| stack.is_empty() && top.children.len() == 1)?;
        top.children.into_iter().next()
    }

    fn named(name: &[u8]) -> Node {
        Node { name: String::from_utf8_lossy(name).into_owned(), ..Node::default() }
    }

    /// The text of the first child of that name.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_with_its_entities_and_without_its_namespaces() {
        let text = b"<?xml version=\"1.0\"?><a:L xmlns:a=\"u\"><Key>x&amp;y&#65;</Key><Empty/><C><D>1</D></C></a:L>";
        let node = Node::parse(text).unwrap();
        assert_eq!((node.name.as_str(), node.text_of("Key"), node.text_of("Empty")), ("L", Some("x&yA"), Some("")));
        assert_eq!(node.children[2].text_of("D"), Some("1"));
        for wrong in ["", "plain", "<a>", "<a></b>", "<a/><b/>"] {
            assert!(Node::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
