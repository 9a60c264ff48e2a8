"""Small pieces of code for the training prompts, and what may be asked of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """code: with slots <items>, <item>, <func>, <field>, <n>; asks: what may be asked of it beside the general."""

    language: str
    code: str
    asks: tuple[str, ...] = ()


NAMES: dict[str, tuple[str, ...]] = {
    "items": ("orders", "users", "scores", "books", "prices", "messages", "tasks", "rows", "songs", "cities",
              "readings", "tickets", "players", "files", "events", "parts"),
    "item": ("entry", "value", "record", "x", "current", "thing", "element", "node"),
    "func": ("process", "handle", "compute", "collect", "summarise", "pick", "check", "update", "find_all", "build"),
    "field": ("name", "price", "age", "date", "total", "status", "size", "count", "title", "weight"),
    "n": ("3", "5", "10", "12", "20", "50", "100"),
    "cls": ("Account", "Counter", "Basket", "Player", "Sensor", "Queue", "Library", "Timer", "Robot", "Garden"),
}  # fmt: skip

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
    Snippet("python", "def <func>_<items>(<items>):\n    result = []\n    for <item> in <items>:\n        if <item>['<field>'] > <n>:\n            result.append(<item>)\n    return result",
            ("Turn the loop into a list comprehension.", "Sort the result by <field> before it is returned.", "Make the limit <n> a parameter.")),
    Snippet("python", "def average_<field>(<items>):\n    total = 0\n    for <item> in <items>:\n        total = total + <item>.<field>\n    return total / len(<items>)",
            ("It fails for an empty list. Fix it.", "Use sum() instead of the loop.", "Also return the largest <field>.")),
    Snippet("python", "class <cls>:\n    def __init__(self, <field>):\n        self.<field> = <field>\n        self.<items> = []\n\n    def add(self, <item>):\n        self.<items>.append(<item>)",
            ("Add a method that removes an item.", "Turn it into a dataclass.", "Add a method that counts the <items>.", "Add a __repr__ method.")),
    Snippet("python", "def read_<items>(path):\n    f = open(path)\n    lines = f.readlines()\n    <items> = []\n    for line in lines:\n        parts = line.split(',')\n        <items>.append((parts[0], int(parts[1])))\n    return <items>",
            ("Use a with statement so that the file is closed.", "Skip empty lines.", "Use the csv module.", "Strip the white space around each part.")),
    Snippet("python", "count = 0\nwhile count < <n>:\n    <item> = get_<field>(count)\n    if <item> is None:\n        break\n    print(<item>)\n    count = count + 1",
            ("Turn the while loop into a for loop.", "Put it into a function called <func>_<items>.", "Collect the values in a list instead of printing them.")),
    Snippet("python", "def count_<field>(<items>):\n    counts = {}\n    for <item> in <items>:\n        key = <item>['<field>']\n        if key in counts:\n            counts[key] += 1\n        else:\n            counts[key] = 1\n    return counts",
            ("Use collections.Counter.", "Use dict.get to make it shorter.", "Return the keys sorted by their count.")),
    Snippet("python", "def is_valid(<field>):\n    if <field> != None:\n        if len(<field>) > <n>:\n            return True\n        else:\n            return False\n    else:\n        return False",
            ("Simplify the nested if statements.", "Compare with None in the usual way.", "Return the reason as well as the answer.")),
    Snippet("python", "def factorial(n):\n    result = 1\n    for i in range(1, n):\n        result = result * i\n    return result",
            ("The result is wrong. Find the bug and fix it.", "Make it raise ValueError for negative numbers.", "Write it with recursion.")),
    Snippet("python", "import json\n\ndef save_<items>(<items>, path):\n    with open(path, 'w') as f:\n        json.dump(<items>, f)\n\ndef load_<items>(path):\n    with open(path) as f:\n        return json.load(f)",
            ("Make load_<items> return an empty list when there is no file.", "Indent the JSON by two spaces.", "Use pathlib.")),
    Snippet("python", "def largest(<items>):\n    best = 0\n    for <item> in <items>:\n        if <item> > best:\n            best = <item>\n    return best",
            ("It is wrong for negative numbers. Fix it.", "Return the position of the largest value too.", "Use the built-in max function.")),
    Snippet("python", "def greet(<field>):\n    if <field> == '':\n        print('Hello!')\n    else:\n        print('Hello, ' + <field> + '! You have ' + str(<n>) + ' new <items>.')",
            ("Return the text instead of printing it.", "Give <field> a default value.", "Add a second language, chosen by a parameter.")),
    Snippet("javascript", "function <func>Items(<items>) {\n  var result = [];\n  for (var i = 0; i < <items>.length; i++) {\n    if (<items>[i].<field> > <n>) {\n      result.push(<items>[i].<field>);\n    }\n  }\n  return result;\n}",
            ("Use filter and map.", "Use let and const instead of var.", "Turn it into an arrow function.")),
    Snippet("javascript", "async function load<cls>(id) {\n  const response = await fetch('/api/<items>/' + id);\n  const data = await response.json();\n  return data.<field>;\n}",
            ("Handle the case that the answer is not ok.", "Use a template string for the address.", "Add a try/catch block.")),
    Snippet("javascript", "let total = 0;\n<items>.forEach(function (<item>) {\n  total += <item>.<field>;\n});\nconsole.log('Total: ' + total);",
            ("Use reduce.", "Put it into a function that returns the total.", "Print the average as well.")),
    Snippet("sql", "SELECT * FROM <items> WHERE <field> > <n> ORDER BY <field>;",
            ("Only return the columns id and <field>.", "Sort in descending order and return the first <n> rows.", "Count the rows instead.")),
    Snippet("html", "<ul>\n  <li>First of the <items></li>\n  <li>Second of the <items></li>\n</ul>",
            ("Add a third entry.", "Make it a numbered list.", "Add a heading above the list and a class to each entry.")),
    Snippet("java", "public int sum(int[] <items>) {\n    int s = 0;\n    for (int i = 0; i <= <items>.length; i++) {\n        s += <items>[i];\n    }\n    return s;\n}",
            ("It throws an exception. Fix the bug.", "Use the enhanced for loop.", "Return a long instead of an int.")),
    Snippet("c", "int find(int *<items>, int n, int wanted) {\n    int i;\n    for (i = 0; i < n; i++)\n        if (<items>[i] == wanted)\n            return i;\n    return 0;\n}",
            ("It cannot tell 'not found' from the first position. Fix it.", "Add const where it belongs.", "Put braces around each block.")),
)  # fmt: skip
