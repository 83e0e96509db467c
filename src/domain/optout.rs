//! STOP and START by message: one word is enough (Kenya's Data Protection (General) Regulations, reg. 17), in English or Swahili,
//! and a name behind it means one sender.

/// What a subscriber asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// No more messages: of all senders, or of one.
    Stop(Option<String>),
    /// Messages again: of all senders, or of one.
    Start(Option<String>),
}

/// The words, and what is answered.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// In small letters.
    stop: Vec<String>,
    start: Vec<String>,
}

/// What stands for every sender.
const ALL: [&str; 4] = ["all", "zote", "yote", "wote"];

/// A word as it is compared: small letters, without what stands around it.
#[must_use]
pub fn folded(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

impl Words {
    /// Words for stopping and for starting.
    #[must_use]
    pub fn new(stop: &[String], start: &[String]) -> Words {
        let fold = |words: &[String]| -> Vec<String> {
            words
                .iter()
                .map(|w| folded(w))
                .filter(|w| !w.is_empty())
                .collect()
        };
        Words {
            stop: fold(stop),
            start: fold(start),
        }
    }

    /// What a text asks for: its first word decides. Text that goes on behind one more word is a letter, not a command, unless
    /// it begins with the very word: `STOP it please` still stops.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Wish> {
        let mut words = text.split_whitespace().filter(|w| !folded(w).is_empty());
        let first = folded(words.next()?);
        let name = words.next();
        // Only a single word behind it is a name.
        let name = name
            .filter(|_| words.next().is_none())
            .map(|n| n.trim_matches(|c: char| !c.is_alphanumeric()).to_string());
        let name = name.filter(|n| !ALL.contains(&n.to_lowercase().as_str()));
        if self.stop.contains(&first) {
            Some(Wish::Stop(name))
        } else if self.start.contains(&first) {
            Some(Wish::Start(name))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides_and_one_word_behind_it_is_a_name() {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_string()).collect::<Vec<_>>();
        let words = Words::new(&list(&["STOP", "Acha", "SITISHA"]), &list(&["START", "ANZA"]));
        let stop = |name: Option<&str>| Some(Wish::Stop(name.map(str::to_string)));
        for all in [
            "STOP",
            " stop. ",
            "Acha!",
            "\"sitisha\"",
            "stop all",
            "STOP ZOTE",
            "stop sending me this",
        ] {
            assert_eq!(words.read(all), stop(None), "{all}");
        }
        assert_eq!(words.read("STOP ACME"), stop(Some("ACME")));
        assert_eq!(words.read("acha acme."), stop(Some("acme")));
        assert_eq!(words.read("anza"), Some(Wish::Start(None)));
        assert_eq!(words.read("START Acme"), Some(Wish::Start(Some("Acme".into()))));
        for none in ["", "  ", "stopping", "please stop", "!!!"] {
            assert_eq!(words.read(none), None, "{none}");
        }
    }
}
