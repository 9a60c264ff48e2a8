"""Word lists of the training prompts. The key of a list is the name of the slot that it fills."""


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(";"))


# a "%" inside a word is a slot of its own: a thing in "happens", a country in "fact", a number in "listing"
WORDS: dict[str, tuple[str, ...]] = {
    "name": _list("""
        Amara; Ben; Carla; Dmitri; Elena; Farid; Grace; Hiro; Ingrid; Jonas; Kavya; Liam; Maya; Nadia; Oscar;
        Priya; Quentin; Rosa; Samuel; Tara; Umar; Vera; Walter; Ximena; Yusuf; Zoe; Alice; Bruno; Clara; Daniel;
        Esther; Felix; Gina; Hassan; Iris; Jamal; Karin; Lucas; Marta; Noah; Olga; Pablo; Rita; Stefan; Tomas;
        Valerie; Wendy"""),
    "surname": _list("""
        Abbott; Bergström; Castillo; Dawson; Eriksen; Fontaine; Gupta; Hartley; Ito; Jankowski; Keller;
        Lindqvist; Marchetti; Nakamura; Okafor; Petrov; Quinn; Ramirez; Schneider; Tanaka; Underwood; Vargas;
        Whitfield; Yilmaz; Adeyemi; Brandt; Chowdhury; Delgado; Novak; Osei"""),
    "city": _list("""
        Lisbon; Nairobi; Osaka; Toronto; Prague; Lima; Cairo; Melbourne; Oslo; Mumbai; Chicago; Istanbul; Seoul;
        Barcelona; Hanoi; Vienna; Dakar; Athens; Montreal; Warsaw; Bogotá; Edinburgh; Jakarta; Helsinki; Naples;
        Singapore; Portland; Marrakesh; Dublin; Santiago; Copenhagen; Budapest"""),
    "town": _list("""
        Alder Creek; Millbrook; Stonehaven; Greywater; Larkfield; Port Ellis; Ashdown; Willow Bend; Kestrel Bay;
        Northfold; Harrowgate; Saltmarsh; Elmsworth; Redfern; Brindle Hill; Oakham Ferry; Juniper Falls; Cold
        Spring; Tarn Valley; Fairmoor; Lantern Cove; Quarry Bank; Dunmere; Silverbridge"""),
    "person": _list("""
        a retired sailor; a young baker; a night watchman; a shy violinist; a clockmaker; a bus driver; a
        botanist; a street photographer; a lighthouse keeper; a schoolteacher; a beekeeper; a tired nurse; a
        locksmith; a chess champion; a mountain guide; a librarian; a deep-sea diver; a postman; a puppet maker;
        a farmer's daughter; a taxi driver; an astronomer; an archivist; an ice-cream seller; a detective; a
        train conductor; a gardener; a carpenter; a radio host; a cartographer; a museum guard; a tailor; a
        young inventor; a ferry captain; a piano tuner; a volunteer firefighter; a potter; a translator; a sheep
        farmer; a circus acrobat"""),
    "animal": _list("""
        a fox; an owl; a stray dog; a parrot; a tortoise; a whale; a crow; a hedgehog; a goat; an otter; a lynx;
        a horse; a squirrel; an octopus; a swan; a bear cub; a firefly; a cat; a badger; a seagull; a mouse; an
        elephant; a salmon; a robin; a camel; a penguin"""),
    "animals": _list("""
        bees; octopuses; penguins; bats; wolves; dolphins; ants; owls; elephants; salmon; crows; tigers;
        spiders; camels; chameleons; sea turtles; hummingbirds; beavers; kangaroos; frogs; polar bears;
        jellyfish; squirrels; snakes; sharks; butterflies; horses; giraffes"""),
    "object": _list("""
        a brass key; an old map; a broken compass; a red umbrella; a silver whistle; a letter without a stamp; a
        wooden box; a pocket watch; a glass marble; a paper boat; a worn violin; a jar of buttons; a blue
        notebook; a music box; a cracked mirror; a lantern; a ticket for a train that no longer runs; a bag of
        seeds; a camera with one picture left; an unfinished painting; a tin soldier; a telescope; a single
        glove; a painted stone; a recipe book; a radio that only works at night; a knitted scarf; a chess piece"""),
    "where": _list("""
        in a quiet fishing village; on a night train; at the edge of a desert; in a crowded market; under an old
        bridge; in a library after closing time; on a small island; in a mountain hut; at a railway station; in
        a greenhouse; at the bottom of a lake; in a city where it never rains; on a spaceship; in an abandoned
        theatre; at a school in the hills; in a forest full of fog; on the roof of a tall building; in a museum
        at night; in a snowed-in hotel; at a county fair; on a river boat; in a busy kitchen; in a lighthouse;
        in a tiny bookshop"""),
    "happens": _list("""
        finds %; loses %; must return % before sunrise; is given % by a stranger; discovers that the clocks have
        stopped; has to choose between two friends; hears a song that nobody else can hear; tries to keep a
        promise made long ago; learns to be brave; meets a rival and becomes a friend; decides to leave home;
        solves a small mystery; makes a mistake and puts it right; waits for a visitor who never comes; wins a
        contest by accident; hides % from everyone; saves the day with %; tells the truth for the first time;
        builds something impossible; gets lost and finds a better place; learns the secret of %; trades % for a
        wish"""),
    "tone": _list("""
        funny; gentle; mysterious; hopeful; sad; exciting; dreamlike; serious; playful; warm; spooky; simple;
        poetic; surprising"""),
    "genre": _list("""
        fairy tale; science fiction story; detective story; fable; adventure story; ghost story; bedtime story;
        love story; short story; diary entry; letter; campfire story; legend; comedy"""),
    "lesson": _list("""
        patience; honesty; sharing; courage; curiosity; kindness; friendship; listening; asking for help; hard
        work; forgiveness; taking turns; not giving up; telling the truth"""),
    "topic": _list("""
        photosynthesis; gravity; the water cycle; inflation; democracy; plate tectonics; the immune system;
        electric current; vaccination; the internet; natural selection; black holes; compound interest; the
        solar system; recycling; climate change; the stock market; the human heart; sleep; antibiotics; machine
        learning; the French Revolution; the Roman Empire; the Silk Road; renewable energy; supply and demand;
        the ozone layer; DNA; atoms; volcanoes; earthquakes; the food chain; the nervous system; tides; the
        Moon's phases; fermentation; encryption; the printing press; the Industrial Revolution; nuclear power;
        the Renaissance; taxes; insulin; rainbows; magnets; friction; coral reefs; deserts; glaciers; the carbon
        cycle; erosion; evolution; sound waves; satellites; solar panels; wind turbines; blood pressure;
        vitamins; proteins; the United Nations; the Cold War; ancient Egypt; the Great Wall of China; jazz
        music; impressionism; haiku; grammar; statistics; probability; prime numbers; fractions; algebra; the
        Pythagorean theorem; databases; operating systems; search engines; computer viruses; batteries;
        semiconductors; 3D printing; GPS; radar; microscopes; telescopes; pollination; migration; hibernation;
        camouflage; monsoons; hurricanes; lightning; fog; soil; composting; insurance; mortgages; budgets;
        minimum wages; globalisation; copyright; patents"""),
    "versus": _list("""
        a virus and a bacterium; weather and climate; a lake and a sea; an alligator and a crocodile; mass and
        weight; speed and velocity; a simile and a metaphor; debit and credit; a fruit and a vegetable; a star
        and a planet; RAM and a hard disk; a compiler and an interpreter; jam and marmalade; an asteroid and a
        comet; a moth and a butterfly; a mean and a median; empathy and sympathy; a loan and a lease; fission
        and fusion; an atom and a molecule; a frog and a toad; baking soda and baking powder; a republic and a
        monarchy; stocks and bonds; a list and a tuple in Python; HTTP and HTTPS; a violin and a viola; arteries
        and veins; igneous and sedimentary rock; conduction and convection; fiction and non-fiction; a
        hypothesis and a theory; a class and an object in programming; a college and a university; herbs and
        spices; a glacier and an iceberg; type 1 and type 2 diabetes; a stack and a queue; an introvert and an
        extrovert; the North Pole and the South Pole"""),
    "skill": _list("""
        cook rice; change a bicycle tyre; learn a new language; save money each month; write a cover letter;
        grow tomatoes on a balcony; prepare for a job interview; remove a coffee stain; tie a tie; train a
        puppy; fall asleep faster; start running; paint a room; read a map; give a short speech; study for an
        exam; fix a dripping tap; bake bread; take better photographs; pack a suitcase; learn to swim; play the
        guitar; plan a birthday party; write a poem; sharpen a kitchen knife; care for a cactus; make a budget;
        stay focused at work; remember names; build a campfire; clean a keyboard; make new friends in a new
        city; keep a diary; learn to type quickly; choose a laptop; iron a shirt; reduce food waste; set up a
        fish tank; meditate; write clean code; test a program; back up a computer; organise a bookshelf; repair
        a torn page; make good coffee"""),
    "audience": _list("""
        a child of eight; a curious teenager; a busy manager; someone who has never heard of it; a new student;
        my grandmother; a beginner; a visitor from another country; a classroom of ten-year-olds; a colleague"""),
    "why": _list("""
        is the sky blue; do leaves change colour in autumn; does ice float on water; do we dream; is the sea
        salty; do cats purr; does bread rise; do we yawn; is exercise good for the heart; do stars twinkle; do
        onions make us cry; do metals feel colder than wood; does the Moon seem to follow us; is sleep important
        for learning; do some people write with the left hand; does hot air rise; do ships made of steel float;
        do birds sing in the morning; is it hard to predict the weather; do we have time zones; do prices go up
        over time; do bees dance; is honey able to last for years; do we get goose bumps; does soap clean our
        hands; do magnets attract iron; do popcorn kernels pop; is the desert cold at night; does a mirror show
        a reversed image; do muscles ache after sport; do cities have traffic jams; do languages change; do
        computers use binary numbers; do leap years exist; is biodiversity important; does the wind blow; do we
        need vitamins; do passwords need to be long"""),
    "fact": _list("""
        What is the capital of %country?; How many continents are there, and what are they called?; Which is the
        largest ocean on Earth?; Who painted the Mona Lisa?; What language is spoken in %country?; Which
        continent is %country on?; What is the boiling point of water in degrees Celsius?; Which planet is
        closest to the Sun?; How many days are there in a leap year?; What is the currency of %country?; What
        are the three states of matter?; Which gas do plants take in from the air?; Who wrote Romeo and Juliet?;
        What is the square root of 144?; How many sides does a hexagon have?; Which organ pumps blood through
        the body?; What is the freezing point of water in Fahrenheit?; Which metal is liquid at room
        temperature?; What do we call a baby kangaroo?; How many strings does a violin have?; What is the
        tallest mountain in the world?; Name a famous river in %country.; What food is %country known for?; What
        is the population of %country, roughly?; What is %country famous for?"""),
    "country": _list("""
        France; Japan; Brazil; Kenya; Canada; India; Norway; Egypt; Mexico; Australia; Greece; Thailand; Peru;
        Turkey; Spain; Vietnam; Morocco; Poland; Argentina; Ireland; Italy; Sweden; Portugal; South Africa;
        Finland; Chile; Germany; Indonesia; the Netherlands; New Zealand; Iceland; South Korea"""),
    "things": _list("""
        healthy snacks; indoor games for a rainy day; gifts for a teacher; ways to save water; questions to ask
        at a job interview; topics for a school essay; names for a small café; vegetarian dinners; exercises
        without equipment; ways to relax after work; tools that a beginner in woodworking needs; things to pack
        for a camping trip; famous inventions; renewable sources of energy; musical instruments; ideas for a
        birthday party; habits of good students; breakfast ideas; ways to reduce plastic waste; jobs that
        involve animals; facts about the ocean; books that every child should read; safety rules for cyclists;
        reasons to learn a second language; hobbies for a long winter; plants that need little light; names for
        a pet cat; ideas for a science fair project; ways to thank a colleague; things to do in a city on a
        Sunday; ingredients of a good soup; skills of a good leader; features of a good website; common mistakes
        of new programmers; ways to make a room brighter; words that describe the sea; titles for a mystery
        novel; ways to stay in touch with old friends; features of a fair contract; steps to plan a small
        garden; benefits of walking; ideas for a family weekend; signs of a good friend; cheap ways to decorate
        a flat; uses for an empty jar; questions for a first date; warm-up exercises; rules for a shared
        kitchen; games for a long car journey; things to check before buying a used car; ways to learn from a
        mistake; advantages of electric cars; risks of social media; ways to help a neighbour; countries in
        Europe; animals that live in the forest; kinds of weather; sports played with a ball; parts of a
        computer; programming languages and what they are used for"""),
    "listing": _list("""
        List % {things}.; Give me % {things}.; Can you name % {things}?; I need % {things}, please.; Write down
        % {things}, each with a short explanation.; Suggest % {things} and say why in one sentence each.; What
        are % {things}? Number them.; Make a numbered list of % {things}.; Give % short bullet points:
        {things}.; Think of % {things} for {reader}."""),
    "reader": _list("""
        a student; a family with small children; a retired couple; a small company; a class of teenagers; a
        group of friends; somebody with little money; a busy parent; a beginner; an office team; a tourist; a
        sports club"""),
    "few": _list("two; three; four"),
    "date": _list("5; 8; 9; 12; 14; 15; 18; 20; 25; 28"),
    "count": _list("three; four; five; six; seven; eight; ten"),
    "month": _list("""
        January; February; March; April; May; June; July; August; September; October; November; December"""),
    "day": _list("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday"),
    "season": _list("spring; summer; autumn; winter"),
    "time": _list("""
        nine in the morning; half past ten; noon; two in the afternoon; four o'clock; six in the evening; eight
        at night"""),
    "year": _list("1887; 1904; 1921; 1936; 1952; 1968; 1974; 1983; 1991; 1999; 2006; 2012; 2017; 2021"),
    "small": _list("two; three; four; five; six; seven; nine; a dozen; fifteen; twenty"),
    "percent": _list("5; 8; 12; 15; 18; 20; 25; 30; 40; 60"),
    "money": _list("""
        200 euros; 350 dollars; 1,200 pounds; 4,500 dollars; 18,000 euros; 60,000 dollars; two million euros"""),
    "company": _list("""
        Northwind Logistics; Blue Heron Foods; Tallis Software; Meridian Rail; Copperleaf Energy; Juno Textiles;
        Harbour Robotics; Fernway Clinics; Atlas Bicycles; Pinecone Toys; Lumen Glass; Quartz Insurance;
        Riverbend Dairy; Solstice Airlines; Cinder Coffee; Tidewater Bank"""),
    "product": _list("""
        a folding bicycle; a solar lamp; a coffee machine; a pair of headphones; a washing machine; a desk
        chair; a winter jacket; a tablet computer; a blender; a running watch; a set of kitchen knives; a tent;
        a vacuum cleaner; an electric kettle; a suitcase; a standing desk; a garden hose; a bread maker"""),
    "fault": _list("""
        arrived with a broken handle; stopped working after a week; makes a loud noise; was the wrong colour;
        came without the instructions; does not charge; leaks at the bottom; is smaller than the picture showed;
        has a scratch on one side; smells of burnt plastic"""),
    "project": _list("""
        the new website; the spring catalogue; the warehouse move; the training programme; the customer survey;
        the payment system; the safety review; the annual report; the mobile app; the recycling scheme"""),
    "problem": _list("""
        the supplier is late; two people are on sick leave; the budget is almost used up; the tests take too
        long; the customers asked for changes; the old data had errors; nobody had signed the contract; the
        server was full; the room was already booked; the translation is not finished"""),
    "building": _list("""
        the old town hall; the public library; the covered market; the railway station; the swimming pool; the
        stone bridge; the village school; the theatre; the harbour wall; the community centre"""),
    "plan": _list("""
        turn it into a museum; add a garden on the roof; open it at weekends; replace the roof; rent part of it
        to young artists; make it easier to reach with a wheelchair; paint it in its first colours; build a café
        beside it"""),
    "dish": _list("""
        lentil soup; apple cake; fried rice; vegetable curry; fish stew; pancakes; potato salad; mushroom
        risotto; chicken pie; tomato pasta; banana bread; bean chilli"""),
    "hobby": _list("""
        pottery; birdwatching; chess; climbing; painting; gardening; choir singing; model trains; photography;
        baking; dancing; astronomy; knitting; sailing"""),
    "subject": _list("""
        mathematics; history; biology; geography; music; chemistry; literature; physics; economics; art;
        computer science; philosophy"""),
    "plant": _list("""
        an oak; a rose; a fern; a cactus; a sunflower; bamboo; lavender; a willow; moss; a pine; an orchid;
        wheat"""),
}  # fmt: skip
