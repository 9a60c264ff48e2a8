"""Small pieces of code for the training prompts, and what may be asked of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """code: with slots <items>, <item>, <func>, <field>, <n>, <cls>; asks: what may be asked beside the general."""

    language: str
    code: str
    asks: tuple[str, ...] = ()


NAMES: dict[str, tuple[str, ...]] = {
    "items": (
        "orders",
        "users",
        "scores",
        "books",
        "prices",
        "messages",
        "tasks",
        "rows",
        "songs",
        "cities",
        "readings",
        "tickets",
        "players",
        "files",
        "events",
        "parts",
    ),
    "item": ("entry", "value", "record", "x", "current", "thing", "element", "node"),
    "func": (
        "process",
        "handle",
        "compute",
        "collect",
        "summarise",
        "pick",
        "check",
        "update",
        "find_all",
        "build",
    ),
    "field": ("name", "price", "age", "date", "total", "status", "size", "count", "title", "weight"),
    "n": ("3", "5", "10", "12", "20", "50", "100"),
    "cls": ("Account", "Counter", "Basket", "Player", "Sensor", "Queue", "Library", "Timer", "Robot", "Garden"),
}

GENERAL = (
    "Add a short docstring or comment that says what it does.",
    "Rename the variables so that their names are clearer.",
    "Rewrite it so that it is shorter but does the same.",
    "Add a check for empty input.",
    "Explain in two sentences what it does, then show a cleaner version.",
    "Make it print a clear message when something goes wrong.",
    "Move the fixed numbers into parameters with default values.",
    "Add one example of how to call it.",
)
PYTHON = ("Add type hints.", "Write a small test for it with assert.", "Use an f-string wherever it makes sense.")

SNIPPETS: tuple[Snippet, ...] = (
    Snippet(
        "python",
        """def <func>_<items>(<items>):
    result = []
    for <item> in <items>:
        if <item>['<field>'] > <n>:
            result.append(<item>)
    return result""",
        (
            "Turn the loop into a list comprehension.",
            "Sort the result by <field> before it is returned.",
            "Make the limit <n> a parameter.",
        ),
    ),
    Snippet(
        "python",
        """def average_<field>(<items>):
    total = 0
    for <item> in <items>:
        total = total + <item>.<field>
    return total / len(<items>)""",
        (
            "It fails for an empty list. Fix it.",
            "Use sum() instead of the loop.",
            "Also return the largest <field>.",
        ),
    ),
    Snippet(
        "python",
        """class <cls>:
    def __init__(self, <field>):
        self.<field> = <field>
        self.<items> = []

    def add(self, <item>):
        self.<items>.append(<item>)""",
        (
            "Add a method that removes an item.",
            "Turn it into a dataclass.",
            "Add a method that counts the <items>.",
            "Add a __repr__ method.",
        ),
    ),
    Snippet(
        "python",
        """def read_<items>(path):
    f = open(path)
    lines = f.readlines()
    <items> = []
    for line in lines:
        parts = line.split(',')
        <items>.append((parts[0], int(parts[1])))
    return <items>""",
        (
            "Use a with statement so that the file is closed.",
            "Skip empty lines.",
            "Use the csv module.",
            "Strip the white space around each part.",
        ),
    ),
    Snippet(
        "python",
        """count = 0
while count < <n>:
    <item> = get_<field>(count)
    if <item> is None:
        break
    print(<item>)
    count = count + 1""",
        (
            "Turn the while loop into a for loop.",
            "Put it into a function called <func>_<items>.",
            "Collect the values in a list instead of printing them.",
        ),
    ),
    Snippet(
        "python",
        """def count_<field>(<items>):
    counts = {}
    for <item> in <items>:
        key = <item>['<field>']
        if key in counts:
            counts[key] += 1
        else:
            counts[key] = 1
    return counts""",
        ("Use collections.Counter.", "Use dict.get to make it shorter.", "Return the keys sorted by their count."),
    ),
    Snippet(
        "python",
        """def is_valid(<field>):
    if <field> != None:
        if len(<field>) > <n>:
            return True
        else:
            return False
    else:
        return False""",
        (
            "Simplify the nested if statements.",
            "Compare with None in the usual way.",
            "Return the reason as well as the answer.",
        ),
    ),
    Snippet(
        "python",
        """def factorial(n):
    result = 1
    for i in range(1, n):
        result = result * i
    return result""",
        (
            "The result is wrong. Find the bug and fix it.",
            "Make it raise ValueError for negative numbers.",
            "Write it with recursion.",
        ),
    ),
    Snippet(
        "python",
        """import json

def save_<items>(<items>, path):
    with open(path, 'w') as f:
        json.dump(<items>, f)

def load_<items>(path):
    with open(path) as f:
        return json.load(f)""",
        (
            "Make load_<items> return an empty list when there is no file.",
            "Indent the JSON by two spaces.",
            "Use pathlib.",
        ),
    ),
    Snippet(
        "python",
        """def largest(<items>):
    best = 0
    for <item> in <items>:
        if <item> > best:
            best = <item>
    return best""",
        (
            "It is wrong for negative numbers. Fix it.",
            "Return the position of the largest value too.",
            "Use the built-in max function.",
        ),
    ),
    Snippet(
        "python",
        """def greet(<field>):
    if <field> == '':
        print('Hello!')
    else:
        print('Hello, ' + <field> + '! You have ' + str(<n>) + ' new <items>.')""",
        (
            "Return the text instead of printing it.",
            "Give <field> a default value.",
            "Add a second language, chosen by a parameter.",
        ),
    ),
    Snippet(
        "javascript",
        """function <func>Items(<items>) {
  var result = [];
  for (var i = 0; i < <items>.length; i++) {
    if (<items>[i].<field> > <n>) {
      result.push(<items>[i].<field>);
    }
  }
  return result;
}""",
        ("Use filter and map.", "Use let and const instead of var.", "Turn it into an arrow function."),
    ),
    Snippet(
        "javascript",
        """async function load<cls>(id) {
  const response = await fetch('/api/<items>/' + id);
  const data = await response.json();
  return data.<field>;
}""",
        (
            "Handle the case that the answer is not ok.",
            "Use a template string for the address.",
            "Add a try/catch block.",
        ),
    ),
    Snippet(
        "javascript",
        """let total = 0;
<items>.forEach(function (<item>) {
  total += <item>.<field>;
});
console.log('Total: ' + total);""",
        ("Use reduce.", "Put it into a function that returns the total.", "Print the average as well."),
    ),
    Snippet(
        "sql",
        """SELECT * FROM <items> WHERE <field> > <n> ORDER BY <field>;""",
        (
            "Only return the columns id and <field>.",
            "Sort in descending order and return the first <n> rows.",
            "Count the rows instead.",
        ),
    ),
    Snippet(
        "html",
        """<ul>
  <li>First of the <items></li>
  <li>Second of the <items></li>
</ul>""",
        (
            "Add a third entry.",
            "Make it a numbered list.",
            "Add a heading above the list and a class to each entry.",
        ),
    ),
    Snippet(
        "java",
        """public int sum(int[] <items>) {
    int s = 0;
    for (int i = 0; i <= <items>.length; i++) {
        s += <items>[i];
    }
    return s;
}""",
        ("It throws an exception. Fix the bug.", "Use the enhanced for loop.", "Return a long instead of an int."),
    ),
    Snippet(
        "c",
        """int find(int *<items>, int n, int wanted) {
    int i;
    for (i = 0; i < n; i++)
        if (<items>[i] == wanted)
            return i;
    return 0;
}""",
        (
            "It cannot tell 'not found' from the first position. Fix it.",
            "Add const where it belongs.",
            "Put braces around each block.",
        ),
    ),
)
