//! XML as OSS writes and reads it: a small writer, and a small tree for what clients send. Not a mapping onto types: the
//! simulator must notice nodes that it does not know, which a mapping silently skips.

use quick_xml::events::Event;

/// Deepest nesting that is read; no document of the protocol goes beyond 8.
const MAX_DEPTH: usize = 16;

/// Writes one document.
#[derive(Debug)]
pub struct Writer {
    out: String,
    open: Vec<String>,
}

impl Writer {
    /// A document with this root node.
    pub fn new(root: &str) -> Writer {
        let mut writer = Writer { out: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), open: Vec::new() };
        writer.open(root);
        writer
    }

    /// Opens a node.
    pub fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
        self.open.push(name.to_string());
    }

    /// Closes the node opened last.
    pub fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            self.out.push_str("</");
            self.out.push_str(&name);
            self.out.push('>');
        }
    }

    /// A node with text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.raw_text(value);
        self.close();
    }

    /// Text of the node that is open.
    pub fn raw_text(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '"' => self.out.push_str("&quot;"),
                // Line ends and tabs are themselves in text; a carriage return would be read as a line end.
                c if (c as u32) < 0x20 && c != '\n' && c != '\t' => self.out.push_str(&format!("&#x{:X};", c as u32)),
                c => self.out.push(c),
            }
        }
    }

    /// Closes what is open and returns the document.
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }
}

/// A node that a client sent. Attributes are ignored; the text is that of the node itself, untrimmed.
#[derive(Debug, Default, Clone)]
pub struct Node {
    /// Local name.
    pub name: String,
    /// Own text, entities resolved.
    pub text: String,
    /// Children in order.
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The text of the first child of that name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str())
    }

    /// All children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |c| c.name == name)
    }
}

/// Reads one document.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Node, String> {
    let mut reader = quick_xml::Reader::from_reader(bytes);
    let mut stack: Vec<Node> = vec![Node::default()];
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(start) => {
                if stack.len() > MAX_DEPTH {
                    return Err(format!("nested deeper than {MAX_DEPTH}"));
                }
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                stack.push(Node { name, ..Node::default() });
            }
            Event::Empty(start) => {
                let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                attach(&mut stack, Node { name, ..Node::default() });
            }
            Event::End(_) => {
                if let Some(node) = stack.pop() {
                    attach(&mut stack, node);
                }
            }
            Event::Text(text) => push_text(&mut stack, &text.decode().map_err(|e| e.to_string())?),
            Event::CData(text) => push_text(&mut stack, &text.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(entity) => {
                if let Some(c) = entity.resolve_char_ref().map_err(|e| e.to_string())? {
                    push_text(&mut stack, c.encode_utf8(&mut [0; 4]));
                } else {
                    let name = entity.decode().map_err(|e| e.to_string())?;
                    let value = quick_xml::escape::resolve_predefined_entity(&name)
                        .ok_or_else(|| format!("unknown entity &{name};"))?;
                    push_text(&mut stack, value);
                }
            }
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    let mut top = stack.pop().unwrap_or_default();
    if !stack.is_empty() || top.children.len() != 1 {
        return Err("the document has not exactly one complete root node".to_string());
    }
    Ok(top.children.remove(0))
}

fn attach(stack: &mut [Node], node: Node) {
    if let Some(parent) = stack.last_mut() {
        parent.children.push(node);
    }
}

fn push_text(stack: &mut [Node], text: &str) {
    if let Some(node) = stack.last_mut() {
        node.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new("Delete");
        writer.open("Object");
        writer.text("Key", " a<b>&\"c'\n ");
        let text = writer.finish();
        let node = parse(text.as_bytes()).unwrap();
        assert_eq!(node.name, "Delete");
        assert_eq!(node.child("Object").unwrap().text_of("Key"), Some(" a<b>&\"c'\n "));
    }

    #[test]
    fn broken_documents_are_refused() {
        for bad in ["", "<a>", "<a></b>", "plain", "<a/><b/>", "<a>&nope;</a>"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
