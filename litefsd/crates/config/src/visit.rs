//! One list of keys per section, walked both to read a file and to show what it says.

use crate::raw::BackupTarget;
use crate::{ByteSize, ExecItem, GoDuration};

/// A section of the file: names its keys, in the order of the documentation.
pub(crate) trait Section {
    /// Name of the original's type for this section, for messages.
    fn type_name(&self) -> &'static str;
    /// Calls `v` once for every key.
    fn each(&mut self, v: &mut dyn Visit);
}

/// Something that is done with every key.
pub(crate) trait Visit {
    fn bool(&mut self, key: &'static str, value: &mut bool);
    fn string(&mut self, key: &'static str, value: &mut String);
    /// A string that is never shown.
    fn secret(&mut self, key: &'static str, value: &mut String);
    fn duration(&mut self, key: &'static str, value: &mut GoDuration);
    fn int(&mut self, key: &'static str, value: &mut i64);
    /// A number that may be absent.
    fn id(&mut self, key: &'static str, value: &mut Option<u32>);
    fn size(&mut self, key: &'static str, value: &mut ByteSize);
    fn strings(&mut self, key: &'static str, value: &mut Vec<String>);
    fn exec(&mut self, key: &'static str, value: &mut Vec<ExecItem>);
    fn targets(&mut self, key: &'static str, value: &mut Vec<BackupTarget>);
    fn section(&mut self, key: &'static str, value: &mut dyn Section);
}
