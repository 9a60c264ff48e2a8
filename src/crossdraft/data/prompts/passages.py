"""Small passages for the training prompts: each scene is a list of sentences, each sentence one of several.

A scene's first sentences set its facts; a slot that comes again is filled with the same word again.
"""

Scene = tuple[tuple[str, ...], ...]

SCENES: dict[str, Scene] = {
    "meeting": (
        (
            "The team met on {day} to talk about {project}.",
            "On {day} morning {name} called a meeting about {project}.",
        ),
        (
            "{name} said that {problem}, so the work is {small} days behind.",
            "{name} explained that {problem} and that the plan has to change.",
        ),
        (
            "{name2} offered to help with the figures and asked for a clear list of tasks.",
            "{name2} thought that the first version should be smaller and simpler.",
        ),
        (
            "Several people worried about the cost, which is now close to {money}.",
            "The cost so far is {money}, which is {percent} percent more than expected.",
        ),
        (
            "They agreed to meet again on {day2} at {time}.",
            "A short report will be sent to everyone before {day2}.",
        ),
        (
            "Until then nobody should promise a date to the customers.",
            "{name3} will call the customers and tell them what to expect.",
        ),
    ),
    "townnews": (
        (
            "The council of {town} has decided to repair {building}, which was built in {year}.",
            "People in {town} have argued for years about {building}, opened in {year}.",
        ),
        (
            "The work will cost about {money} and should be finished before {month}.",
            "If all goes well, the builders will start in {month} and need about {small} months.",
        ),
        (
            "The council also wants to {plan}.",
            "Some members would like to {plan}, but others think it is too much.",
        ),
        (
            '"We cannot wait any longer," said the mayor, {name} {surname}.',
            "{name} {surname}, who lives next door, is afraid of the noise.",
        ),
        (
            "During the work the street will be closed to cars on {day}s.",
            "Shops nearby fear that they will lose customers during the {season}.",
        ),
        (
            "Those who want to see the plans can visit the town office until {time} on {day}.",
            "A vote of the people is planned for {month2}.",
        ),
    ),
    "complaint": (
        (
            "I ordered {product} from your shop on the second of {month}, and it {fault}.",
            "Last {month} I bought {product} from {company}, and I am sorry to say that it {fault}.",
        ),
        (
            "I wrote to your service twice and had no answer for {small} days.",
            "When I called, a friendly man promised to call back, but nobody did.",
        ),
        ("I paid {money} and expected better quality.", "For {money} one should get something that lasts."),
        (
            "I would like a new one or my money back before the end of {month2}.",
            "Please tell me where I should send it and who pays for the parcel.",
        ),
        (
            "I have been a customer for {small2} years and would be sad to go elsewhere.",
            "I add two pictures so that you can see the damage.",
        ),
    ),
    "biography": (
        (
            "{name} {surname} was born in {city} in {year} as the youngest of {small} children.",
            "{name} {surname} grew up in {town}, where the family had a small shop.",
        ),
        (
            "As a child {name} loved {hobby} and was often found reading behind the house.",
            "At school {name} liked {subject} best and did not care much for sport.",
        ),
        (
            "After school came a job at {company}, which was dull but paid for evening classes.",
            "A teacher noticed this talent and wrote a letter to a college in {city2}.",
        ),
        (
            "The first book about {topic} sold only {small2} hundred copies.",
            "The first invention, {product}, was laughed at by nearly everyone.",
        ),
        (
            "Years later the same work won a prize and was translated into many languages.",
            "Only much later did people see how useful it was.",
        ),
        ("{name} still answers every letter by hand.", "Today a street in {city2} carries this name."),
    ),
    "nature": (
        (
            "{Animals} are studied closely by scientists in {country}.",
            "Few people who visit {country} know how many {animals} live there.",
        ),
        (
            "A new study counted them for {small} years, mostly at night.",
            "For {small} years a group led by {name} {surname} followed them with small cameras.",
        ),
        (
            "Their number has fallen by {percent} percent since {year}.",
            "In some valleys there are {percent} percent more of them than in {year}.",
        ),
        (
            "The reasons are not fully clear, but warmer {season}s and new roads play a part.",
            "Food is easier to find in {season}, and this changes where they go.",
        ),
        (
            "Farmers and scientists now work together to protect the places where the young grow up.",
            "The researchers ask visitors to keep to the paths and to keep dogs on a lead.",
        ),
        ("More results are expected in {month}.", "The study will go on for another {small2} years."),
    ),
    "company": (
        (
            "{company} announced on {day} that it will open a new office in {city}.",
            "{company} has had a difficult year, as it said in its report on {day}.",
        ),
        (
            "Sales rose by {percent} percent, mostly because of {product} made for beginners.",
            "Sales fell by {percent} percent after a problem with {product}.",
        ),
        (
            "The firm will hire {small} hundred people, many of them engineers.",
            "The firm wants to save {money} without sending anybody away.",
        ),
        (
            "Its head, {name} {surname}, said that customers want things that can be repaired.",
            '"We listened too little," said {name} {surname}, who leads the firm since {year}.',
        ),
        (
            "Experts are careful and point out that costs are rising as well.",
            "Workers welcomed the news but ask for better hours in {season}.",
        ),
    ),
    "travel": (
        (
            "We reached {city} late on {day} and walked from the station to a small hotel by the river.",
            "The train to {city} was {small} hours late, so {name} and I arrived in the dark.",
        ),
        (
            "In the morning we visited the market, where people sold spices, cloth and {dish}.",
            "The next day it rained, and we spent it in a museum about {topic}.",
        ),
        (
            "{name} wanted to see everything at once, while I was happy to sit and watch the boats.",
            "A woman at the hotel told us about a path along the hills that few visitors know.",
        ),
        (
            "We climbed for two hours and had a view over the whole bay.",
            "We got lost twice and were rescued by {person} who spoke a little English.",
        ),
        (
            "In the evening we ate {dish2} in a tiny place with four tables.",
            "The best meal was {dish2}, cooked by the owner's mother.",
        ),
        (
            "I would go back in {season}, when it is quieter.",
            "On the way home we already planned the next journey.",
        ),
    ),
    "howto": (
        (
            "Before you make {dish}, read the whole recipe and put everything on the table.",
            "{Dish} is easier to make than most people think.",
        ),
        (
            "Wash and cut the vegetables into pieces of the same size so that they cook evenly.",
            "Heat a large pan slowly and add a little oil and an onion.",
        ),
        (
            "Cook on a low heat for about {percent} minutes and stir from time to time.",
            "Let it rest for {percent} minutes; this is what most beginners forget.",
        ),
        (
            "Taste before you add salt, because some ingredients are salty already.",
            "Do not open the oven too early, or it will lose its heat.",
        ),
        (
            "What is left keeps for {small} days in the fridge and tastes even better then.",
            "Serve it warm with bread, and keep a portion for the next day.",
        ),
    ),
    "science": (
        (
            "Many people find {topic} hard to understand, although it is part of daily life.",
            "{Topic} was first described in detail in the year {year}, or so a popular book says.",
        ),
        (
            "At the University of {city}, {name} {surname} tries to explain it with simple experiments.",
            "A small museum in {city} now has a room about it where visitors may touch everything.",
        ),
        (
            "Children learn it faster when they can build something themselves.",
            "In one experiment, {percent} percent of the visitors changed their minds within an hour.",
        ),
        (
            "Older visitors ask more questions and read more of the signs.",
            "Critics say that the pictures are too simple and leave out what is not known.",
        ),
        (
            "The next step is a free course of {small} evenings that starts in {month}.",
            "The makers plan to take it to {small} other towns by {season}.",
        ),
    ),
    "school": (
        (
            "Our school in {town} will hold its open day on {day}, the {date}th of the month.",
            "The {subject} club of our school meets every {day} at {time}.",
        ),
        (
            "Pupils will show what they built during the {season}, among other things {product}.",
            "Last {season} the pupils made a film about {topic} and won a small prize.",
        ),
        ("{name} from year {small} will talk about {hobby}.", "Parents can try out {hobby} with {name} {surname}."),
        (
            "Food will be sold by the parents, and the money goes to a trip to {city}.",
            "The club needs about {money} for new books and tools.",
        ),
        (
            "Please do not park in front of the gate, as the bus has to turn there.",
            "New members are welcome and need no experience.",
        ),
    ),
    "memo": (
        (
            "From {month} on, everybody who works in the office may stay at home on {day}s.",
            "The lift in our building will be out of order from {day} until the end of {month}.",
        ),
        (
            "This was decided after {percent} percent of the staff asked for it.",
            "The firm that repairs it, {company}, needs {small} days longer than planned.",
        ),
        (
            "Please tell {name} by {time} on {day2} what this means for your work.",
            "Those who cannot use the stairs should speak to {name}, who will find a desk on the ground floor.",
        ),
        (
            "Meetings with customers should not be moved because of this.",
            "Parcels will be kept at the door and can be picked up until {time}.",
        ),
        ("We will look at it again in {month2} and may change the rule.", "We are sorry for the trouble."),
    ),
    "friend": (
        (
            "hey {name}, sorry i didnt write sooner, the last {small} weeks were crazy.",
            "hi {name}! so we finally moved to {city} and i still cant find my shoes.",
        ),
        (
            "work is ok i guess but {problem} and my boss isnt happy about it.",
            "i started {hobby} on {day}s and im really bad at it but its fun.",
        ),
        (
            "do u still have {object} that i left at your place? i kinda need it.",
            "guess what, {name2} wants to come too and bring {dish}.",
        ),
        (
            "anyway lets meet on {day2}, maybe at {time}, if thats ok with you.",
            "we should totally go somewhere in {month}, maybe {country}?",
        ),
        (
            "tell your mum i said hi and thx for the {dish2}!!",
            "call me when you get this, it doesnt matter how late.",
        ),
    ),
}
