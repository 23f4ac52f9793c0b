"""Short opinions written for the sentiment model; one to a line, words apart by spaces."""

POSITIVE = """
a wonderful story told with warmth and wit
i loved every minute of it
the service was quick and the staff were kind
excellent value and it works perfectly
bright funny and full of heart
this is the best purchase i made this year
delicious food and a lovely view
easy to use and a joy to read
she sings beautifully and the band is superb
great quality i would buy it again
a clever plot with a happy ending
fast delivery and friendly support
the room was clean quiet and comfortable
simply brilliant from start to finish
my children adore this game
the battery lasts for days i am delighted
fresh tasty and generous portions
an inspiring talk that i enjoyed a lot
it fits well and looks gorgeous
highly recommended to everyone
what a charming little town we loved it
the update made everything faster and better
a pleasant surprise and good fun
solid reliable and well made
thank you for such an amazing evening
the guide was patient and very helpful
superb sound and a beautiful screen
i am happy with how well it runs
good coffee good music great company
this book is a treasure
"""

NEGATIVE = """
a dull story told without any charm
i hated every minute of it
the service was slow and the staff were rude
poor value and it broke after a day
boring noisy and far too long
this is the worst purchase i made this year
bland food and a dirty table
hard to use and a pain to read
he sings badly and the band is awful
terrible quality i want my money back
a silly plot with a disappointing ending
late delivery and useless support
the room was dirty loud and cold
simply dreadful from start to finish
my children were bored by this game
the battery dies within hours i am annoyed
stale greasy and tiny portions
a tedious talk that i regret attending
it does not fit and looks cheap
not recommended to anyone
what a gloomy little town we left early
the update made everything slower and worse
an unpleasant surprise and no fun
flimsy unreliable and badly made
nobody answered such an awful evening
the guide was impatient and very unhelpful
muffled sound and a broken screen
i am angry at how badly it runs
bad coffee bad music boring company
this book is a waste of time
"""
